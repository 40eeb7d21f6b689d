"""One step of a lineage, and what checking it said."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

#: The fact that names the run which a tokenizer was taken over from.
FROM = "from"


class State(StrEnum):
    """What a check of a recorded thing found."""

    OK = "ok"
    CHANGED = "changed"
    GONE = "gone"
    UNCHECKED = "unchecked"


#: State -> mark and colour, the same in print and picture.
MARKS = {
    State.OK: ("✓", "green"),
    State.CHANGED: ("≠", "red"),
    State.GONE: ("✗", "red"),
    State.UNCHECKED: ("·", "grey"),
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """A thing in the lineage.

    Args:
        kind: such as run, corpus, source.
        title: what it is called.
        facts: what is recorded of it.
        state: what checking it found.
        note: why it is in this state, or what cannot be checked.
        made_from: what it was made from or with, and what was measured on it.
    """

    kind: str
    title: str
    facts: dict[str, str] = field(default_factory=dict)
    state: State = State.UNCHECKED
    note: str = ""
    made_from: tuple["Node", ...] = ()

    def walk(self) -> Iterator["Node"]:
        """This node and all below it."""
        yield self
        for node in self.made_from:
            yield from node.walk()

    def to_plain(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)
