"""Files of a run or a bundle: written whole, and read as data, for they may come from anywhere."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from datamodules.files import (
    draft_of,
    give_usual_mode,
    open_to_append,
    put_in_place,
    sha256_of,
    sync,
    write_whole,
)

__all__ = [
    "draft_of",
    "give_usual_mode",
    "mapping_in",
    "open_to_append",
    "put_in_place",
    "read_json",
    "read_yaml",
    "sha256_of",
    "sync",
    "to_yaml",
    "write_json",
    "write_whole",
]

#: What a file of ours never reaches: how deep it is nested, and how many values it holds.
MAX_DEPTH, MAX_VALUES = 200, 1_000_000


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(yaml.SafeDumper):
    """Each value where it stands, though it may stand twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(plain: Mapping[str, Any]) -> str:
    """Plain values as YAML that every reader understands alike."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(file: Path) -> Any:
    """The plain values in a file; texts are not resolved.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no YAML, or nothing that this project writes.
    """
    text = file.read_text(encoding="utf-8")
    try:
        _check_depth(yaml.parse(text, Loader=_LOADER))
        return _checked(yaml.load(text, Loader=_LOADER))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_json(file: Path, *, finite: bool = False) -> Any:
    """The plain values in a file; `finite`: NaN and infinities are refused.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or nothing that this project writes.
    """
    text = file.read_text(encoding="utf-8")
    try:
        return _checked(json.loads(text), finite=finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def mapping_in(file: Path) -> dict[str, Any]:
    """The mapping in a file of JSON or YAML; empty where there is no such file, or half of one."""
    read = read_yaml if file.suffix == ".yaml" else read_json
    try:
        return dict(read(file) or {})
    except (OSError, ValueError, TypeError):
        return {}


def write_json(file: Path, value: Any) -> None:
    """Write plain values as JSON, sorted and indented.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(file, json.dumps(value, indent=2, sort_keys=True) + "\n")


def _check_depth(events: Iterable[yaml.Event]) -> None:
    """The library in C goes down as deep as the text does, and ends the process where its stack ends."""
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")


def _checked(root: Any, *, finite: bool = False) -> Any:
    """The values, if one can go through them: an alias in YAML can make a file of a line hold billions."""
    waiting, n_values = [(root, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        n_values += 1
        if depth > MAX_DEPTH or n_values > MAX_VALUES:
            raise ValueError("nested too deeply" if depth > MAX_DEPTH else "too many values")
        if isinstance(node, Mapping):
            waiting += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list):
            waiting += [(value, depth + 1) for value in node]
        elif finite and isinstance(node, float) and not math.isfinite(node):
            raise ValueError(f"{node} is not a finite number")
    return root
