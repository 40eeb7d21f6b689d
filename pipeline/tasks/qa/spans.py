"""From the logits of windows to answers: the best spans of all windows of a row."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from modules.heads import SpanHead
from pipeline.tasks.qa.windows import Passage, Window


@dataclass(frozen=True)
class Span:
    """A span [start, end) of a context, and the sum of its two logits."""

    score: float
    start: int
    end: int
    text: str


@dataclass(eq=False)
class Candidates:
    """The candidate answers from all windows of one row.

    Args:
        passage: the context of the row.
        spans: the spans that the windows propose.
        null_score: the sum of the logits of no answer, from the window in which it is lowest.
    """

    passage: Passage
    spans: list[Span] = field(default_factory=list)
    null_score: float = float("inf")

    def add(
        self, window: Window, places: Iterable[Sequence[int]], scores: Iterable[float], null: float
    ) -> None:
        """Add the spans of a window, as first and last index and score, and the window's null score."""
        self.null_score = min(self.null_score, null)
        shift = window.first_token - window.passage_start
        for (first, last), score in zip(places, scores, strict=True):
            start, end = self.passage.characters(first + shift, last + shift)
            if start < end:
                self.spans.append(Span(score, start, end, self.passage.context[start:end]))

    def best(self, n_best: int) -> list[Span]:
        """Return the best spans with different texts, the best first."""
        chosen: dict[str, Span] = {}
        for span in sorted(self.spans, key=lambda span: (-span.score, span.start, span.end)):
            chosen.setdefault(span.text, span)
            if len(chosen) == n_best:
                break
        return list(chosen.values())


def propose(
    windows: Sequence[Window],
    logits: Float[Tensor, "B T 2"],
    *,
    n_best: int,
    max_answer_tokens: int,
) -> list[tuple[list[list[int]], list[float], float]]:
    """Return, for each window, the best (first, last) indices, their scores, and the null score."""
    nulls = torch.tensor([window.null for window in windows], device=logits.device)
    spans, scores = SpanHead.n_best_spans(logits, n=n_best, max_answer_tokens=max_answer_tokens, null=nulls)
    proposals = []
    for places, values, null in zip(
        spans.tolist(), scores.tolist(), SpanHead.null_scores(logits, nulls).tolist(), strict=True
    ):
        n_real = sum(math.isfinite(value) for value in values)  # the best come first
        proposals.append((places[:n_real], values[:n_real], null))
    return proposals


def probabilities(scores: Sequence[float]) -> list[float]:
    """Return the softmax of the scores."""
    if not scores:
        return []
    odds = np.exp(np.array(scores) - max(scores))
    return [float(share) for share in odds / odds.sum()]
