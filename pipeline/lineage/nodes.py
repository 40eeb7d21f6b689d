"""Nodes of a lineage, with the result of checking them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

#: The fact that names the run from which a tokenizer was taken.
FROM = "from"


class State(StrEnum):
    """The result of checking a recorded item."""

    OK = "ok"
    CHANGED = "changed"
    GONE = "gone"
    UNCHECKED = "unchecked"


#: State -> mark and colour, in the terminal and in the picture.
MARKS = {
    State.OK: ("✓", "green"),
    State.CHANGED: ("≠", "red"),
    State.GONE: ("✗", "red"),
    State.UNCHECKED: ("·", "grey"),
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the lineage.

    Args:
        kind: for example run, corpus or source.
        title: its name.
        facts: what is recorded about it.
        state: the result of checking it.
        note: why it is in this state, or what cannot be checked.
        made_from: its inputs, and evaluations of it.
    """

    kind: str
    title: str
    facts: dict[str, str] = field(default_factory=dict)
    state: State = State.UNCHECKED
    note: str = ""
    made_from: tuple["Node", ...] = ()

    def walk(self) -> Iterator["Node"]:
        """Yield this node and all its descendants."""
        yield self
        for node in self.made_from:
            yield from node.walk()

    def to_plain(self) -> dict[str, Any]:
        """Convert to plain values."""
        return asdict(self)
