"""Build objects from plain values: the only place where a `_target_` becomes an object.

A node may come from anywhere: a configuration, a bundle, the record of a run. Only source files of this
project are ever imported. The class must be of the kind that is expected in its place, and the nodes in it of
the kinds that its constructor declares. Everything else is data.
"""

import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, overload

from modules.errors import ArgumentError
from pipeline.config.plain import to_plain
from pipeline.config.targets import OWN_PACKAGES, parameters_of, target_of
from pipeline.errors import ConfigError

T = TypeVar("T")


@overload
def construct(node: Any, kind: type[T], *more: type, **late: Any) -> T: ...
@overload
def construct(node: Any, **late: Any) -> Any: ...
def construct(node: Any, *kinds: type, **late: Any) -> Any:
    """Build what a node describes, with the parameters that are only known once the data is read.

    Args:
        node: a mapping with a `_target_`, and the arguments of that class.
        kinds: the result must be an instance of one of these classes; empty: any class of this project.
        late: arguments that are not in the node.

    Raises:
        ConfigError: if the node names another class, or the class rejects a value.
    """
    return _build(to_plain(node), kinds, late, path="")


def class_of(node: Any, *kinds: type, path: str = "node") -> type:
    """Return the class that a node names, which is one of `kinds` or a subclass.

    Raises:
        ConfigError: if the node names no class, or one of another kind.
    """
    name = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(f"{path} has no _target_", _names(kinds), "compare with the yaml files in configs/")
    found = target_of(name, path)
    if kinds and not any(kind in found.__mro__ for kind in kinds):
        raise ConfigError(
            f"{path}._target_ is {name}", _names(kinds), "compare with the yaml files in configs/"
        )
    return found


def _build(node: Any, kinds: tuple[type, ...], late: Mapping[str, Any], *, path: str) -> Any:
    kind = class_of(node, *kinds, path=path or "node")
    prefix = f"{path}." if path else ""
    parameters = parameters_of(kind)
    given = {key: value for key, value in node.items() if key != "_target_" and key not in late}
    for key in given:
        if key not in parameters:
            raise ConfigError(
                f"{prefix}{key}: {kind.__name__} takes no such key",
                f"one of {', '.join(parameters) or 'none'}",
                f"leave out {prefix}{key}",
            )
    arguments = {
        key: _value(value, tuple(_classes(parameters[key][0])), f"{prefix}{key}")
        for key, value in given.items()
    }
    try:
        return kind(**arguments, **late)
    except ArgumentError as error:
        raise ConfigError(f"{kind.__name__}: {error.problem}", error.expected, error.remedy) from error
    except ValueError as error:
        raise ConfigError(
            f"{kind.__name__}: {error}", "", "compare its keys with `make show-config`"
        ) from error


def _value(value: Any, kinds: tuple[type, ...], path: str) -> Any:
    """Return a value with its nodes built, where the parameter declares classes of this project."""
    if isinstance(value, list):
        return [_value(one, kinds, path) for one in value]
    if not isinstance(value, Mapping):
        return value
    if "_target_" in value and kinds:
        return _build(value, kinds, {}, path=path)
    return {key: _value(one, kinds, f"{path}.{key}") for key, one in value.items()}


def _classes(hint: Any) -> Iterator[type]:
    """Yield the classes of this project in a type hint."""
    if isinstance(hint, type) and hint.__module__.partition(".")[0] in OWN_PACKAGES:
        yield hint
    for part in typing.get_args(hint):
        yield from _classes(part)


def _names(kinds: tuple[type, ...]) -> str:
    return (
        f"a subclass of {' or '.join(kind.__name__ for kind in kinds)}"
        if kinds
        else "a class of this project"
    )
