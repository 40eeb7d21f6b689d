"""Dialogues as token sequences: roles, labels, and which turns are kept if not all fit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import with_config
from typing_extensions import TypedDict

from datamodules.corruption import IGNORE
from datamodules.errors import DataError
from datamodules.tokenizer import Tokenizer
from pipeline.tasks.finetuning import Feature, Row, type_words
from pipeline.tasks.layouts import framed
from pipeline.tasks.scoring import Ints

_EXPECTED = "a list of texts (the user's first), or of {role: user | assistant | system, text: ...}"
_REMEDY = "correct the row, or map another column to turns"
_ROLES = {"user": "user", "assistant": "assistant", "bot": "assistant", "system": "system"}


@with_config(extra="forbid")
class TurnInput(TypedDict):
    """One turn, as sent to the server."""

    role: Literal["user", "assistant", "system"]
    text: str


class Turn(NamedTuple):
    """One turn of a dialogue."""

    role: str
    text: str


def turns_of(row: Row, where: str) -> list[Turn]:
    """Return the dialogue of a row; consecutive turns of the same role are joined by a newline.

    Plain texts alternate between user and assistant, starting with the user. `role: system` is an
    instruction. Under the key `speaker`, used in corpora of dialogue systems, `system` is the assistant.

    Raises:
        DataError: there are no turns, or one has an unknown role or no text.
    """
    turns = row.get("turns")
    if isinstance(turns, str | Mapping) or not isinstance(turns, Sequence | np.ndarray):
        raise DataError(f"{where}: turns is {type_words(turns)}", _EXPECTED, _REMEDY)
    if not len(turns):
        raise DataError(f"{where}: turns is empty", _EXPECTED, _REMEDY)
    joined: list[Turn] = []
    for number, turn in enumerate(turns):
        read = _turn(turn, number, f"{where}, turn {number + 1}")
        if joined and joined[-1].role == read.role:
            read = Turn(read.role, f"{joined.pop().text}\n{read.text}")
        joined.append(read)
    return joined


def _turn(turn: Any, number: int, where: str) -> Turn:
    if isinstance(turn, str):
        return Turn(("user", "assistant")[number % 2], turn)
    if not isinstance(turn, Mapping):
        raise DataError(f"{where} is {type_words(turn)}", _EXPECTED, _REMEDY)
    turn = {key: value for key, value in turn.items() if value is not None}  # Arrow adds None for absent keys
    speaker, text = turn.get("speaker"), turn.get("text", turn.get("content"))
    said = turn.get("role") if speaker is None else speaker
    role = _ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        raise DataError(f"{where} has the role {said!r}", "user, assistant (or bot) or system", _REMEDY)
    if not isinstance(text, str):
        raise DataError(f"{where}: text is {type_words(text)}", "text", _REMEDY)
    return Turn("assistant" if role == "system" and speaker is not None else role, text)


@dataclass(frozen=True, eq=False)
class Stream:
    """A dialogue as one token sequence: `<user> text <assistant> reply <eos> <user> ...`.

    Args:
        head: `<bos>` and the instruction at the beginning of the dialogue, which are kept in every window.
        ids: the token ids of all further turns.
        learnt: whether each of `ids` belongs to a reply, including its end token.
        starts: the index in `ids` at which each turn begins.
    """

    head: Ints
    ids: Ints
    learnt: npt.NDArray[np.bool_]
    starts: Ints

    @classmethod
    def of(cls, turns: Sequence[Turn], tokenizer: Tokenizer, *, limit: int) -> "Stream":
        """Encode turns; an instruction longer than a quarter of `limit` is truncated."""
        opening = turns[:1] if turns[:1] and turns[0].role == "system" else []
        texts = tokenizer.encode_batch([turn.text for turn in turns])
        frames = [tokenizer.turn_frame(turn.role) for turn in turns]
        encoded = [framed(before, ids, after) for (before, after), ids in zip(frames, texts, strict=True)]
        before, _ = tokenizer.frame
        head = np.concatenate((before, *encoded[: len(opening)]))[: max(limit // 4, 1)]
        parts = encoded[len(opening) :]
        learnt = [
            _is_learnt(turn.role, len(ids), len(part), tokenizer)
            for turn, ids, part in zip(turns[len(opening) :], texts[len(opening) :], parts, strict=True)
        ]
        lengths = np.array([0, *map(len, parts)])
        return cls(
            head.astype(np.int64),
            np.concatenate([np.zeros(0, np.int64), *parts]),
            np.concatenate([np.zeros(0, bool), *learnt]),
            np.cumsum(lengths)[:-1],
        )

    def prompt(self, tokenizer: Tokenizer, *, limit: int, reserve: int) -> list[int]:
        """Return the prompt for a reply: the latest turns and `<assistant>`, with `reserve` tokens left."""
        ids = np.append(self.ids, tokenizer.turn_frame("assistant")[0])
        first = self._oldest(len(ids), max(limit + 1 - reserve - len(self.head), 1))
        return [*self.head.tolist(), *ids[first:].tolist()]

    def features(self, *, limit: int) -> list[Feature]:
        """Return examples of at most `limit` tokens that label each token of each reply exactly once.

        A dialogue that fits is one example. A longer one is split: each example has as many whole replies as
        fit after the context before them, which takes three quarters of the space, or more for the last
        replies.
        """
        return [self._feature(*window) for window in self._windows(limit + 1 - len(self.head))]

    def _windows(self, room: int) -> Iterator[tuple[int, int, int]]:
        """Yield the begin, the first labelled token and the end of each example."""
        learnt = np.flatnonzero(self.learnt)
        ends = learnt[np.diff(learnt, append=-1) != 1] + 1
        n_done = 0
        while n_done < len(learnt):
            first = int(learnt[n_done])
            reply = int(ends[np.searchsorted(ends, first, side="right")]) - first
            ahead = max(min(reply, room // 2), min(int(ends[-1]) - first, room // 4))
            begin = self._oldest(first, room - ahead)
            whole = ends[(ends > first) & (ends <= begin + room)]
            end = int(whole[-1]) if len(whole) else begin + room
            yield begin, first, end
            n_done = int(np.searchsorted(learnt, end))

    def _oldest(self, end: int, room: int) -> int:
        """Return where to begin so that at most `room` tokens precede `end`.

        Whole turns are dropped, unless that would leave over a quarter of the space empty; then one is cut.
        """
        lowest = max(end - room, 0)
        after = self.starts[np.searchsorted(self.starts, lowest) :]
        return int(after[0]) if len(after) and after[0] <= lowest + room // 4 else lowest

    def _feature(self, begin: int, first: int, end: int) -> Feature:
        ids = np.concatenate((self.head, self.ids[begin:end]))
        learnt = self.learnt[begin:end] & (np.arange(begin, end) >= first)
        labels = np.where(np.concatenate((np.zeros(len(self.head), bool), learnt)), ids, IGNORE)
        return {"input_ids": ids[:-1], "labels": labels[1:]}


def _is_learnt(role: str, n_text: int, n_turn: int, tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """Return which tokens of a turn belong to a reply or end it."""
    learnt = np.zeros(n_turn, bool)
    if role == "assistant":
        first = len(tokenizer.turn_frame(role)[0])
        learnt[first : first + n_text + 1] = True
    return learnt
