"""A question with a long context as windows that fit the backbone, and the positions of answers in them.

A window is `<bos> question <sep> part of the context <eos>`. Predicting its `<eos>` means that it contains no
answer: `<eos>` is the only token of a causal backbone that attends to the whole window. (BERT uses the first
token.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.tokenizer import Tokenizer
from pipeline.tasks.scoring import Ints


@dataclass(frozen=True, eq=False)
class Passage:
    """A context as tokens, with the characters [start, end) that each token (L,) covers."""

    context: str
    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]

    @classmethod
    def of(cls, context: str, tokenizer: Tokenizer) -> "Passage":
        """Encode a context."""
        return cls(context, *tokenizer.encode_with_offsets(context))

    def tokens(self, start: int, end: int) -> tuple[int, int]:
        """Return the first and the last token that contain any of the characters [start, end)."""
        first = np.searchsorted(self.ends, start, side="right")
        last = np.searchsorted(self.starts, end, side="left") - 1
        return int(first), int(last)

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """Return the characters [start, end) of tokens, without white space at either end."""
        start, end = int(self.starts[first]), int(self.ends[last])
        text = self.context[start:end]
        start += len(text) - len(text.lstrip())
        return start, max(start, end - len(text) + len(text.rstrip()))


@dataclass(frozen=True, eq=False)
class Window:
    """A question followed by a part of the passage.

    Args:
        ids: token ids (T,); the last one is `<eos>`, which stands for no answer.
        types: 1 for tokens of the passage that also occur in the question, else 0 (T,).
        passage_start: the index in `ids` at which the passage begins.
        first_token: the index of that token in the whole passage.
    """

    ids: Ints
    types: Ints
    passage_start: int
    first_token: int

    @property
    def null(self) -> int:
        """The index that stands for no answer."""
        return len(self.ids) - 1

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Return the indices of tokens `first` to `last` of the passage; twice `null` if not all are here."""
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
    """Split a passage into windows that cover all of its tokens; there is at least one window.

    Args:
        question: token ids of the question; truncated to `max_question_tokens` or half of the window.
        passage: the context.
        tokenizer: the tokenizer, for special tokens and for which ids count as the same word.
        limit: the maximum number of tokens of a window.
        stride: the number of tokens by which consecutive windows overlap; at most half of a window's passage.
        max_question_tokens: the maximum number of tokens of the question.

    Sources: Devlin et al. 2019, "BERT", `run_squad.py` (where the stride is the step between windows); Chen
    et al. 2017, "Reading Wikipedia to Answer Open-Domain Questions", section 3.2 (exact match).
    """
    question = question[: min(max_question_tokens, (limit - 3) // 2)]
    room = limit - 3 - len(question)
    step = room - min(stride, room // 2)
    words = tokenizer.folded_ids[question]
    same = np.isin(tokenizer.folded_ids[passage.ids], words[words > 0])
    cut = []
    for first in range(0, max(len(passage.ids) - room, 0) + step, step):
        part = passage.ids[first : first + room]
        ids = np.concatenate(([tokenizer.bos_id], question, [tokenizer.sep_id], part, [tokenizer.eos_id]))
        types = np.zeros(len(ids), np.int64)
        types[len(question) + 2 : -1] = same[first : first + room]
        cut.append(Window(ids.astype(np.int64), types, passage_start=len(question) + 2, first_token=first))
    return cut
