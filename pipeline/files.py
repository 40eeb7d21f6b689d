"""Read and write the files of runs and bundles: written atomically, and read as untrusted data."""

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

#: Limits on the nesting depth and the number of values of a file; no file that Prelude writes reaches them.
MAX_DEPTH, MAX_VALUES = 200, 1_000_000


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(yaml.SafeDumper):
    """A dumper that writes a repeated value in full each time, not as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(plain: Mapping[str, Any]) -> str:
    """Format plain values as YAML without anchors or aliases."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(file: Path) -> Any:
    """Read the plain values in a YAML file; strings are not interpolated.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not valid YAML, or exceeds the limits on depth and size.
    """
    text = file.read_text(encoding="utf-8")
    try:
        _check_depth(yaml.parse(text, Loader=_LOADER))
        return _checked(yaml.load(text, Loader=_LOADER))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_json(file: Path, *, finite: bool = False) -> Any:
    """Read the plain values in a JSON file; with `finite`, NaN and infinities are rejected.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not valid JSON, or exceeds the limits on depth and size.
    """
    text = file.read_text(encoding="utf-8")
    try:
        return _checked(json.loads(text), finite=finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def mapping_in(file: Path) -> dict[str, Any]:
    """Read the mapping in a JSON or YAML file; return an empty one if the file is missing or invalid."""
    read = read_yaml if file.suffix == ".yaml" else read_json
    try:
        return dict(read(file) or {})
    except (OSError, ValueError, TypeError):
        return {}


def write_json(file: Path, value: Any) -> None:
    """Write plain values as JSON, sorted and indented.

    Raises:
        OSError: if the file cannot be written.
    """
    write_whole(file, json.dumps(value, indent=2, sort_keys=True) + "\n")


def _check_depth(events: Iterable[yaml.Event]) -> None:
    """Reject deep nesting before parsing: libyaml recurses, and a stack overflow would end the process."""
    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")


def _checked(root: Any, *, finite: bool = False) -> Any:
    """Return the values if they are within the limits; YAML aliases can expand one line to billions."""
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
