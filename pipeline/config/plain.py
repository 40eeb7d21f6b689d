"""A configuration as plain, read-only values: its strings are never interpolated."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any


class Config(Mapping[str, Any]):
    """A read-only tree of plain values, accessed by key or as attributes.

    Hydra composes and resolves a configuration once. After that, strings are literal: `${name}` in a prompt
    or a path is never interpolated.

    Args:
        values: the tree, as a mapping.
        words: the overrides that the user typed; None if the configuration was read from a file.
    """

    __slots__ = ("_values", "words")

    words: tuple[str, ...] | None

    def __init__(self, values: Mapping[str, Any], *, words: Iterable[str] | None = None) -> None:
        object.__setattr__(self, "_values", {str(key): _read_only(value) for key, value in values.items()})
        object.__setattr__(self, "words", None if words is None else tuple(words))

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __getattr__(self, key: str) -> Any:
        if key == "_values" or key not in self._values:
            raise AttributeError(f"the configuration has no {key}")
        return self._values[key]

    def __setattr__(self, key: str, value: Any) -> None:
        raise TypeError("a configuration is read-only")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and to_plain(self) == to_plain(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Config({to_plain(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Config, words=self.words), (to_plain(self),)


def to_plain(node: Any) -> Any:
    """Copy a node to plain dicts, lists and scalars."""
    if isinstance(node, Mapping):
        return {key: to_plain(value) for key, value in node.items()}
    return [to_plain(value) for value in node] if isinstance(node, list | tuple) else node


def select(node: Any, key: str) -> Any:
    """Return the value at a dotted key, or None if there is none."""
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _read_only(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Config(value)
    return [_read_only(one) for one in value] if isinstance(value, list | tuple) else value
