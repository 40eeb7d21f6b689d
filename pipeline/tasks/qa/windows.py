"""A question with a long context as windows that fit the backbone, and answers as tokens and back.

A window is `<bos> question <sep> part of the context <eos>`. Pointing at its `<eos>` says that it
holds no answer: of a causal backbone that is the one token that has seen the whole window. (BERT points at
the first token.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.tokenizer import Tokenizer
from pipeline.tasks.scoring import Ints


@dataclass(frozen=True, eq=False)
class Passage:
    """A context as tokens, with the characters [start, end) that each (L,) covers."""

    context: str
    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]

    @classmethod
    def of(cls, context: str, tokenizer: Tokenizer) -> "Passage":
        """Encode a context."""
        return cls(context, *tokenizer.encode_with_offsets(context))

    def tokens(self, start: int, end: int) -> tuple[int, int]:
        """The first and the last token that hold any of the characters [start, end)."""
        first = np.searchsorted(self.ends, start, side="right")
        last = np.searchsorted(self.starts, end, side="left") - 1
        return int(first), int(last)

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """The characters [start, end) of some tokens, without white space at either end."""
        start, end = int(self.starts[first]), int(self.ends[last])
        text = self.context[start:end]
        start += len(text) - len(text.lstrip())
        return start, max(start, end - len(text) + len(text.rstrip()))


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a passage with the question before it.

    Args:
        ids: token ids (T,); the last one is `<eos>`, which stands for no answer.
        types: 1 (T,) for tokens of the passage that the question has too, else 0.
        passage_start: where in `ids` the part of the passage begins.
        first_token: which token of the passage stands there.
    """

    ids: Ints
    types: Ints
    passage_start: int
    first_token: int

    @property
    def null(self) -> int:
        """Where to point when there is no answer."""
        return len(self.ids) - 1

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Where tokens `first` to `last` of the passage stand; twice `null` where they are not all here."""
        shift = self.passage_start - self.first_token
        if first + shift < self.passage_start or last + shift >= self.null:
            return self.null, self.null
        return first + shift, last + shift


def windows(
    question: npt.NDArray[np.integer],
    passage: Passage,
    tokenizer: Tokenizer,
    *,
    limit: int,
    stride: int,
    max_question_tokens: int,
) -> list[Window]:
    """Cut a passage; every token of it is in a window, and at least one window is made.

    Args:
        question: its token ids; what is beyond `max_question_tokens`, or half of the room, is left out.
        passage: the context.
        tokenizer: which tokens count as the same, and which stand around the texts.
        limit: tokens of a window at most.
        stride: tokens that neighbouring windows share; at most half of a window's room for the passage.
        max_question_tokens: tokens of the question at most.

    Sources: Devlin et al. 2019, "BERT", `run_squad.py` (there the stride is what windows do not share); Chen
    et al. 2017, "Reading Wikipedia to Answer Open-Domain Questions", section 3.2 (exact match).
    """
    asked = question[: min(max_question_tokens, (limit - 3) // 2)]
    room = limit - 3 - len(asked)
    step = room - min(stride, room // 2)
    words = tokenizer.folded_ids[asked]
    same = np.isin(tokenizer.folded_ids[passage.ids], words[words > 0])
    made = []
    for first in range(0, max(len(passage.ids) - room, 0) + step, step):
        part = passage.ids[first : first + room]
        ids = np.concatenate(([tokenizer.bos_id], asked, [tokenizer.sep_id], part, [tokenizer.eos_id]))
        types = np.zeros(len(ids), np.int64)
        types[len(asked) + 2 : -1] = same[first : first + room]
        made.append(Window(ids.astype(np.int64), types, passage_start=len(asked) + 2, first_token=first))
    return made
