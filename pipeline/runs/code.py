"""Hash the code of a stage: the source files that it and the classes in its configuration import.

Files are hashed by their syntax tree, so comments, docstrings and formatting do not count. Neither do tests,
HTML pages, and modules that only report, plan or record.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("datamodules", "modules", "pipeline")

#: Modules and packages that do not affect the results: they report, plan or record, or compose the
#: configuration, which is an input itself.
WITHOUT_EFFECT = (
    "datamodules.errors",
    "modules.interpret",
    "pipeline.card",
    "pipeline.commands",
    "pipeline.config.check",
    "pipeline.config.compose",
    "pipeline.config.plain",
    "pipeline.config.recorded",
    "pipeline.config.schema",
    "pipeline.config.targets",
    "pipeline.demo",
    "pipeline.errors",
    "pipeline.evaluation.attention_picture",
    "pipeline.explain",
    "pipeline.machine.out_of_memory",
    "pipeline.pages",
    "pipeline.plan",
    "pipeline.rendezvous",
    "pipeline.report",
    "pipeline.runs.code",
    "pipeline.runs.folders",
    "pipeline.runs.inputs",
    "pipeline.runs.record",
    "pipeline.runs.tags",
    "pipeline.runs.tokenizers",
    "pipeline.signals",
    "pipeline.stages.following",
    "pipeline.stdio",
    "pipeline.tracking",
    "pipeline.training.callbacks.progress",
    "pipeline.training.label",
    "pipeline.training.lost",
)

#: Libraries whose versions affect the results.
LIBRARIES = ("torch", "lightning", "datasets", "tokenizers", "numpy")

#: Number of hexadecimal digits of a hash that are kept.
_DIGITS = 12


def code_of(modules: Iterable[str], *, root: Path = ROOT) -> dict[str, str]:
    """Return `code FILE` -> hash, for these modules and all modules of the project that they import."""
    found: dict[str, str] = {}
    waiting, seen = list(modules), set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen or _is_without_effect(module):
            continue
        seen.add(module)
        file = _file_of(module, root)
        if file is not None:
            digest, imported = _read(file, file.stat().st_mtime_ns)
            found[f"code {file.relative_to(root)}"] = digest
            waiting += [*imported, *_packages_of(module)]
    return found


def versions() -> dict[str, str]:
    """Return `version LIBRARY` -> version, for libraries that affect the results."""
    python = ".".join(python_version().split(".")[:2])
    return {"version python": python, **{f"version {name}": version(name) for name in LIBRARIES}}


def targets_in(node: Any) -> Iterator[str]:
    """Yield the modules of the classes that a configuration names."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"]).rpartition(".")[0]
        for value in node.values():
            yield from targets_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets_in(value)


def _is_without_effect(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in WITHOUT_EFFECT)


def _packages_of(module: str) -> list[str]:
    """Return the parent packages of a module, which Python runs before it."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _file_of(module: str, root: Path) -> Path | None:
    """Return the source file of a module of the project, or None for other names."""
    if module.partition(".")[0] not in ROOMS:
        return None
    path = root.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@lru_cache(maxsize=2048)
def _read(file: Path, changed_ns: int) -> tuple[str, tuple[str, ...]]:
    """Return a file's hash and its imports; `changed_ns`, its mtime, invalidates the cache."""
    tree = ast.parse(file.read_bytes(), str(file))
    imported = tuple(dict.fromkeys(_imported(tree)))
    _drop_docstrings(tree)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:_DIGITS], imported


def _imported(tree: ast.AST) -> Iterator[str]:
    """Yield imported modules, and names that may be modules; those without a file are skipped later."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _drop_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                first.value = ast.Constant("")
