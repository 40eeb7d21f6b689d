"""Check a composed configuration, or a node of it, against the signatures of the classes that it names."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.config.groups import groups
from pipeline.config.plain import Config, to_plain
from pipeline.config.schema import LATE_PARAMETERS, ModelParts, Root, Size
from pipeline.config.signatures import Signature, signature, signature_of
from pipeline.config.suggestions import suggest_key
from pipeline.errors import ConfigError


def check(config: Config) -> None:
    """Check every node of a composed configuration against the signature of what it builds."""
    plain = to_plain(config)
    everywhere = every_key(plain)
    _check_keys(plain.get("size"), signature(Size), "size", everywhere)
    _check_keys(plain.get("model"), signature(ModelParts), "model", everywhere)
    root = signature(Root)
    own = {
        key: value for key, value in plain.items() if key in root.required or not isinstance(value, Mapping)
    }
    _check_keys(own, root, "", everywhere)
    for key in plain.keys() - own.keys() - {"stage", "choices"}:
        if key not in ("size", "model") and plain[key] and "_target_" not in plain[key]:
            raise _keys_of_nothing(key, plain[key], config.choices.get(key))
        check_nodes(plain[key], key, everywhere)


def _keys_of_nothing(group: str, node: Mapping[str, Any], chosen: str | None) -> ConfigError:
    """Return the refusal of keys of a group whose chosen option stands for nothing, such as peft=none."""
    others = [name for name in groups().get(group, []) if name != chosen]
    return ConfigError(
        f"{group}.{next(iter(node))}: {group}={chosen} takes no keys",
        f"{group}={' or '.join(others)} with it",
        f"add {group}={others[0]}" if others else f"leave out {group}",
    )


def check_nodes(node: Any, path: str, everywhere: Iterable[str] = ()) -> None:
    """Check a node, and all below it, against the signatures of the classes that they name.

    Raises:
        ConfigError: for an unknown key, a wrong type or a missing value.
    """
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        _check_keys(node, signature_of(node["_target_"], path), path, everywhere)
    for key, value in node.items():
        check_nodes(value, f"{path}.{key}", everywhere)


def every_key(node: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the groups and every key that can be set, including keys whose default lives in a class."""
    names = signature_of(node["_target_"], path).required if "_target_" in node else node
    for name in names:
        key = f"{path}.{name}" if path else str(name)
        below = node.get(name)
        if key in LATE_PARAMETERS or key in ("stage", "choices"):
            continue
        if isinstance(below, Mapping):
            yield from every_key(below, key)
        if not path or not isinstance(below, Mapping):
            yield key


def _check_keys(
    node: Mapping[str, Any] | None, owner: Signature, path: str, everywhere: Iterable[str]
) -> None:
    if node is None:
        return
    prefix = f"{path}." if path else ""
    required = {name: must for name, must in owner.required.items() if prefix + name not in LATE_PARAMETERS}
    for key, value in node.items():
        if key == "_target_" or (value is None and prefix + key in LATE_PARAMETERS):
            continue  # in a recorded model, late parameters are at their defaults
        if key not in required:
            problem = f"{prefix}{key}: {_title(owner)} takes no such key"
            expected = f"one of {', '.join(required)}" if required else "none"
            raise ConfigError(problem, expected, suggest_key(prefix + key, list(required), everywhere))
        if value == "???":
            raise ConfigError(f"{prefix}{key} is not set", "a value", f"give {prefix}{key}=...")
        if not _holds_nodes(value):
            _check_type(value, owner.hint(key), f"{prefix}{key}")
    for key, must in required.items():
        if must and key not in node:
            raise ConfigError(
                f"{prefix}{key} is not set", f"a value for {_title(owner)}", f"give {prefix}{key}=..."
            )


def _check_type(value: Any, hint: Any, path: str) -> None:
    try:
        _adapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        expected = " or ".join(dict.fromkeys(_wanted(detail["msg"]) for detail in error.errors()))
        raise ConfigError(f"{path}: {value!r} is not a valid value", expected, f"correct {path}") from error


def _holds_nodes(value: Any) -> bool:
    """Return whether the value is a node, or contains nodes: each is checked against its own class."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_holds_nodes, value.values()))
    return isinstance(value, list) and any(map(_holds_nodes, value))


def _adapter(hint: Any) -> "TypeAdapter[Any]":
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:  # dataclasses and TypedDicts carry a configuration of their own
        return TypeAdapter(hint)


def _title(owner: Signature) -> str:
    return "the configuration" if owner is signature(Root) else owner.title


def _wanted(message: str) -> str:
    """Return what pydantic expected, as a noun phrase."""
    text = message.removeprefix("Input should be ").replace("a valid array", "a list, such as [a, b]")
    return text[:1].lower() + text[1:]
