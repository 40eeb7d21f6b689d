"""Compose the configuration with Hydra, check it against class signatures, resolve it and freeze it."""

import importlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import hydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.config.grammar import read_overrides, without_interpolation
from pipeline.config.plain import Config, to_plain
from pipeline.config.suggestions import suggest, suggest_key
from pipeline.errors import ConfigError

PROJECT = Path(__file__).parents[2]
CONFIGS = PROJECT / "configs"

#: Where the classes live that a configuration, a bundle or a run may name.
OWN_PACKAGES = ("datamodules", "modules", "pipeline")

#: Groups and keys that describe what a bundle holds.
BUNDLE_KEYS = ("size", "model", "position", "tokenizer", "tokenizer_text_bytes")

#: `init_from` of a fine-tuning that starts from nothing.
NOTHING = "none"

#: Parameters that only the data can tell; `pipeline.prepare` gives them, a yaml never does.
LATE_PARAMETERS = frozenset(
    {"model.backbone.vocab_size", "model.backbone.target_vocab_size", "model.head.embedding"}
)


@dataclass(kw_only=True)
class Stage:
    """What a stage is called, and which groups and keys of the configuration it reads."""

    name: str
    uses: list[str]


@dataclass(kw_only=True)
class Size:
    """The dial of the model: everything else follows from these four."""

    d_model: int
    n_layers: int
    n_heads: int
    max_seq_len: int


@dataclass(kw_only=True)
class ModelParts:
    """A backbone, the head on it, and the law of their first weights."""

    backbone: dict[str, Any]
    head: dict[str, Any]
    init: str


@dataclass(kw_only=True)
class Root:
    """The keys of `configs/run.yaml` that are not groups."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    name: str | None = None
    init_from: str | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    bundle: str = "latest"
    resume: bool | str = False
    runs_dir: str = "runs"
    cache_dir: str = ".cache"
    tokenizer_text_bytes: Annotated[int, Field(ge=1)] = 100_000_000
    packing: Literal["concat", "whole"] = "concat"
    prompts: list[str] | None = None
    log_corpus_text: bool = False
    runs: list[str] | None = None
    input: str | None = None
    output: str | None = None
    format: str | None = None
    run: str | None = None
    model_name: str | None = None
    alias: str = "challenger"
    fix: bool = False
    deep: bool = False
    columns: dict[str, str] | None = None
    tasks: list[str] | None = None
    step: str | None = None
    pipeline_id: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 5000


def compose(stage: str, overrides: Sequence[str]) -> Config:
    """Compose and check the configuration of `stage`; the result is resolved and read-only.

    Raises:
        ConfigError: for an unknown group, option or key, a wrong type, a missing or an impossible value.
    """
    config = compose_unchecked(stage, overrides)
    check(config)
    return config


def compose_unchecked(stage: str, overrides: Sequence[str]) -> Config:
    """The same without the check against signatures, which imports all that is configured: seconds.

    Raises:
        ConfigError: for an unknown group, option or top-level key.
    """
    parsed = read_overrides(overrides)
    check_overrides(stage, parsed)
    return composed(stage, parsed)


def composed(stage: str, overrides: Sequence[Override]) -> Config:
    """What Hydra makes of overrides, without what the stage does not read.

    Raises:
        ConfigError: they do not compose.
    """
    forced = [_forced(override) for override in overrides]
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = hydra.compose("run", [f"stage={stage}", *forced], return_hydra_config=True)
        choices = {
            group: choice for group, choice in config.hydra.runtime.choices.items() if "/" not in group
        }
        config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(
            _first_line(error), "a configuration that composes", "see `make show-config`"
        ) from error
    plain["choices"] = choices
    _check_top(plain)
    kept = ("stage", "choices", *plain["stage"]["uses"])
    return Config({key: value for key, value in plain.items() if key in kept})


def groups() -> dict[str, list[str]]:
    """The configuration's groups and the options of each, by name."""
    folders = sorted(folder for folder in CONFIGS.iterdir() if folder.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def stage_titles() -> dict[str, str]:
    """Each stage with the first comment of its yaml, which says what it does."""
    files = sorted((CONFIGS / "stage").glob("*.yaml"))
    return {file.stem: _title_of(file) for file in files}


def _title_of(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").split("\n")
    return next(line for line in lines if not line.startswith("# @package")).lstrip("# ")


def keys_used(stage: str) -> list[str]:
    """The groups and keys that a stage reads."""
    node = OmegaConf.load(CONFIGS / "stage" / f"{stage}.yaml")
    return list(OmegaConf.select(node, "stage", default=node).uses)


def check_overrides(stage: str, overrides: Sequence[Override]) -> None:
    """Refuse overrides of groups, options and keys that do not exist or that the stage does not read."""
    options = groups()
    stages = options["stage"]
    if stage not in stages:
        words = [*stages, "show-config"]
        remedy = suggest(stage, words, "see `make help`")
        raise ConfigError(f"unknown stage '{stage}'", f"one of {', '.join(words)}", remedy)
    used = keys_used(stage)
    for override in overrides:
        group = override.key_or_group
        top = group.split(".")[0].split("@")[0]
        if top not in used:
            remedy = suggest_key(group, used, keys_of_stage(stage, overrides))
            raise ConfigError(f"{top}: {stage} takes no such key", f"one of {', '.join(used)}", remedy)
        value = override.value()
        if group in options and isinstance(value, str) and value not in options[group]:
            expected = f"one of {', '.join(options[group])}"
            raise ConfigError(f"{group}={value}: no such option", expected, suggest(value, options[group]))
    _check_start(stage, overrides)


def _check_start(stage: str, overrides: Sequence[Override]) -> None:
    """Refuse a model or a tokenizer beside a bundle: both come from it. Only a tokenizer's file may be named.

    `finetune` starts from a bundle unless `init_from=none`, `pretrain` only where `init_from` is given.
    """
    given = {override.key_or_group: override.value() for override in overrides}
    start = given.get("init_from")
    if start == (NOTHING if stage == "finetune" else None):
        return
    from_file = given.get("tokenizer") == "file"  # its digest is compared when the bundle is read
    for key in given:
        if key.split(".")[0] in BUNDLE_KEYS and not (from_file and key.split(".")[0] == "tokenizer"):
            beside = "init_from is not none" if start is None else f"so is init_from={start}"
            remedy = "give init_from=none" if start is None else "leave out init_from"
            raise ConfigError(
                f"{key} is given, and {beside}",
                "model and tokenizer from the bundle, as they are",
                f"leave out {key}, or {remedy}",
            )


def check(config: Config) -> None:
    """Check every node of a composed configuration against the signature of what it builds."""
    plain = to_plain(config)
    everywhere = _every_key(plain)
    _check_keys(plain.get("size"), Size, "size", everywhere)
    _check_keys(plain.get("model"), ModelParts, "model", everywhere)
    scalars = {key: value for key, value in plain.items() if not isinstance(value, Mapping)}
    _check_keys(scalars, Root, "", everywhere)
    for key in plain.keys() - scalars.keys() - {"stage", "choices"}:
        check_nodes(plain[key], key, everywhere)


def keys_of_stage(stage: str, overrides: Sequence[Override] = ()) -> Iterator[str]:
    """Every key that a stage reads, with the options that were chosen where there are such."""
    options = groups()
    chosen = [each for each in overrides if each.value() in options.get(each.key_or_group, ())]
    yield from _every_key(to_plain(composed(stage, chosen)))


def _every_key(node: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Groups, and each key in them that can be given a value, also where its default is in a class."""
    names = parameters_of(target_of(node["_target_"], path)) if "_target_" in node else node
    for name in names:
        key = f"{path}.{name}" if path else str(name)
        below = node.get(name)
        if key in LATE_PARAMETERS or key in ("stage", "choices"):
            continue
        if isinstance(below, Mapping):
            yield from _every_key(below, key)
        if not path or not isinstance(below, Mapping):
            yield key


def _check_top(config: Mapping[str, Any]) -> None:
    """A key that no group and no scalar has: misspelt in a yaml file."""
    known = [*groups(), "choices", "cleaning", "freezing", "sweep", *(name for name in parameters_of(Root))]
    for key in config:
        if key not in known:
            raise ConfigError(f"{key}: no such key", f"one of {', '.join(known)}", suggest(key, known))


def check_nodes(node: Any, path: str, everywhere: Iterable[str] = ()) -> None:
    """Check a node, and all below it, against the signatures of the classes that they name.

    Raises:
        ConfigError: for an unknown key, a wrong type or a missing value.
    """
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        _check_keys(node, target_of(node["_target_"], path), path, everywhere)
    for key, value in node.items():
        check_nodes(value, f"{path}.{key}", everywhere)


#: Where classes were once, by the names that older bundles and runs have, and where they are now.
MOVED = {
    "pipeline.callbacks.freezing.Freezing": "pipeline.training.callbacks.freezing.Freezing",
    "pipeline.trainer.TrainerOptions": "pipeline.machine.options.TrainerOptions",
}


def target_of(name: str, path: str) -> type:
    """The class that a `_target_` names. Only source files of this project are imported.

    Raises:
        ConfigError: it names no class of this project.
    """
    module, _, attribute = MOVED.get(name, name).rpartition(".")
    try:
        if not _is_own(module):
            raise ImportError("no module of this project")
        found = getattr(importlib.import_module(module), attribute)
        if not (inspect.isclass(found) and _is_own(found.__module__)):
            raise ImportError("no class of this project")
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{path}._target_: cannot import '{name}' ({_first_line(error)})",
            "the full name of a class in datamodules, modules or pipeline",
            "compare with the yaml files in configs/",
        ) from error
    return found


def _is_own(module: str) -> bool:
    """Whether a module is a source file of this project: known before it is imported.

    A folder without `__init__.py` is none, so `runs`, and what somebody puts into it, is never imported.
    """
    parts = module.split(".")
    if parts[0] not in OWN_PACKAGES or not all(part.isidentifier() for part in parts):
        return False
    folders = [PROJECT.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    last = folders.pop()
    whole = all((folder / "__init__.py").is_file() for folder in folders)
    return whole and (last.with_suffix(".py").is_file() or (last / "__init__.py").is_file())


def _check_keys(node: Mapping[str, Any] | None, owner: Any, path: str, everywhere: Iterable[str]) -> None:
    if node is None:
        return
    prefix = f"{path}." if path else ""
    parameters = {
        name: parameter
        for name, parameter in parameters_of(owner).items()
        if prefix + name not in LATE_PARAMETERS
    }
    for key, value in node.items():
        if key == "_target_" or (value is None and prefix + key in LATE_PARAMETERS):
            continue  # a recorded model has its late parameters at their defaults
        if key not in parameters:
            problem = f"{prefix}{key}: {_title(owner)} takes no such key"
            expected = f"one of {', '.join(parameters)}" if parameters else "none"
            raise ConfigError(problem, expected, suggest_key(prefix + key, list(parameters), everywhere))
        if value == "???":
            raise ConfigError(f"{prefix}{key}: not set", "a value", f"give {prefix}{key}=...")
        _check_type(value, parameters[key][0], f"{prefix}{key}")
    for key, (_, required) in parameters.items():
        if required and key not in node:
            raise ConfigError(
                f"{prefix}{key}: not set", f"a value for {_title(owner)}", f"give {prefix}{key}=..."
            )


def _check_type(value: Any, hint: Any, path: str) -> None:
    if _holds_nodes(value):
        return
    try:
        _adapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        expected = "; ".join(dict.fromkeys(_lower_first(detail["msg"]) for detail in error.errors()))
        raise ConfigError(f"{path}: {value!r} does not fit", expected, f"correct {path}") from error


def _holds_nodes(value: Any) -> bool:
    """Whether it is a node, or a mapping or list of some: each is checked against its own class."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_holds_nodes, value.values()))
    return isinstance(value, list) and any(map(_holds_nodes, value))


def _adapter(hint: Any) -> "TypeAdapter[Any]":
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:  # dataclasses and TypedDicts carry a configuration of their own
        return TypeAdapter(hint)


@cache
def parameters_of(owner: Any) -> dict[str, tuple[Any, bool]]:
    """Name -> (type hint, whether it must be given) of each constructor parameter."""
    hints = get_type_hints(owner.__init__ if inspect.isclass(owner) else owner, include_extras=True)
    return {
        name: (hints.get(name, Any), parameter.default is parameter.empty)
        for name, parameter in inspect.signature(owner).parameters.items()
    }


def _forced(override: Override) -> str:
    """The override such that a key absent from yaml may be set: the checker, not Hydra, judges keys."""
    line = without_interpolation(override)
    is_group = override.key_or_group in groups()
    return line if is_group or line[0] in "+~" else f"++{line}"


def _title(owner: Any) -> str:
    return "the configuration" if owner is Root else str(owner.__name__)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
