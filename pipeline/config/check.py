"""A composed configuration, or a node of it, held against the signatures of the classes that it names."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.config.plain import Config, to_plain
from pipeline.config.schema import LATE_PARAMETERS, ModelParts, Root, Size
from pipeline.config.suggestions import suggest_key
from pipeline.config.targets import parameters_of, target_of
from pipeline.errors import ConfigError


def check(config: Config) -> None:
    """Check every node of a composed configuration against the signature of what it builds."""
    plain = to_plain(config)
    everywhere = every_key(plain)
    _check_keys(plain.get("size"), Size, "size", everywhere)
    _check_keys(plain.get("model"), ModelParts, "model", everywhere)
    scalars = {key: value for key, value in plain.items() if not isinstance(value, Mapping)}
    _check_keys(scalars, Root, "", everywhere)
    for key in plain.keys() - scalars.keys() - {"stage", "choices"}:
        check_nodes(plain[key], key, everywhere)


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


def every_key(node: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Groups, and each key in them that can be given a value, also where its default is in a class."""
    names = parameters_of(target_of(node["_target_"], path)) if "_target_" in node else node
    for name in names:
        key = f"{path}.{name}" if path else str(name)
        below = node.get(name)
        if key in LATE_PARAMETERS or key in ("stage", "choices"):
            continue
        if isinstance(below, Mapping):
            yield from every_key(below, key)
        if not path or not isinstance(below, Mapping):
            yield key


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


def _title(owner: Any) -> str:
    return "the configuration" if owner is Root else str(owner.__name__)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
