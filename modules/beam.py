"""Beam search: the most likely outputs of each prompt, batched over prompts and beams, with a cache.

At each step, the best continuations of all open beams of a row are taken, as many as there are beams: those
that end with `eos_id` are set aside, the others stay open. A row is done when no open beam can become better
than the worst of the requested outputs; it then leaves the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modules.cache import KVCache
from modules.decoding import Writer, check_room, evaluating, first_batch, forbidden_mask, writer_of
from modules.errors import ArgumentError
from modules.model import Model

_NEVER = float("-inf")


@dataclass(frozen=True, kw_only=True)
class BeamOptions:
    """The width of the search, and how outputs are scored.

    Args:
        beams: the number of open outputs that are kept at each step; 1 is greedy decoding.
        length_penalty: the sum of log probabilities is divided by length ** length_penalty; 0 prefers short
            outputs, 1 compares means over tokens, higher values prefer long ones.
        max_new_tokens: the maximum length of an output, including its end token.
        n_best: the number of outputs to return for each row; with fewer, the search ends sooner.

    Raises:
        ArgumentError: a value is outside its range.

    Source: Graves 2012, "Sequence Transduction with Recurrent Neural Networks", section 2.5 (the search); Wu
    et al. 2016, "Google's Neural Machine Translation System", section 7, equation 14 (the penalty; here the
    length itself replaces their (5 + length) / 6).
    """

    beams: int = 4
    length_penalty: float = 1.0
    max_new_tokens: int = 200
    n_best: int = 1

    def __post_init__(self) -> None:
        checks = {
            "beams": (self.beams >= 1, "1 or more", "use 1 for greedy decoding"),
            "length_penalty": (self.length_penalty >= 0, "0 or more", "use 1 to compare means over tokens"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more", "generate at least one token"),
            "n_best": (1 <= self.n_best <= self.beams, f"from 1 to beams ({self.beams})", "use more beams"),
        }
        for name, (is_valid, expected, remedy) in checks.items():
            if not is_valid:
                raise ArgumentError(f"{name} is {getattr(self, name)}", expected, remedy)


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """An output of the search.

    Args:
        ids: the tokens of the output, without the end token.
        score: the sum of log probabilities (nats) / length ** length_penalty; the end token counts.
        ended: whether the output ended with `eos_id`; otherwise it was cut at the maximum length.
    """

    ids: list[int]
    score: float
    ended: bool


@torch.no_grad()
def beam_search(
    model: Model,
    prompts: Sequence[Sequence[int]],
    options: BeamOptions,
    *,
    eos_id: int,
    pad_id: int,
    bos_id: int | None = None,
    forbidden_ids: Sequence[int] = (),
    max_new: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """Return the `n_best` best outputs of each row: those that ended, by score, then those that were cut.

    The prompts and token arguments are those of `modules.generation.generate`. Of equal scores, the one found
    first wins: that of the better beam, and then of the smaller token. There are fewer than `n_best` outputs
    only if no more exist.

    Args:
        model: a model with a language-model head.
        prompts: the token ids of each row, at least one.
        options: the width of the search, and how outputs are scored.
        eos_id: the token that ends an output; it can always be chosen.
        pad_id: the token that pads shorter prompts on the left; it is masked.
        bos_id: the token that the decoder of an EncoderDecoder starts from; a Decoder needs none.
        forbidden_ids: tokens that are never chosen, such as special tokens.
        max_new: the maximum length of each row's output, if it is less than `options.max_new_tokens`.

    Raises:
        ArgumentError: a prompt is empty, a prompt and its output exceed the positions, there are more beams
            than tokens, or the logits are NaN.
    """
    if not prompts:
        return []
    backbone = writer_of(model)
    limits = _limits(options, max_new, len(prompts))
    batch, read, answer_key = first_batch(backbone, prompts, pad_id=pad_id, bos_id=bos_id)
    check_room(backbone, prompts, limits)
    forbidden = forbidden_mask(backbone, forbidden_ids, eos_id=eos_id)
    _check_beams(options, n_tokens=len(forbidden))
    cache = _new_cache(backbone, [len(ids) for ids in read], limits)
    rows = [_Row(options, limit=limit, eos_id=eos_id) for limit in limits]
    frontier = _Frontier(rows, options.beams, cache, n_read=batch[answer_key].shape[1])
    with evaluating(model):
        while frontier.rows:
            # Call `forward` directly, because a compiled model would be recompiled for every length.
            logits = model.head.forward(backbone.forward(batch, cache)[:, -1]).float()
            tokens = frontier.advance(logits.masked_fill(forbidden, _NEVER).log_softmax(dim=-1))
            batch = {answer_key: tokens}
    return [row.hypotheses() for row in rows]


def best_tokens(log_p: Float[Tensor, "R V"], k: int) -> tuple[Float[Tensor, "R {k}"], Int[Tensor, "R {k}"]]:
    """Return the k largest values of each row and their tokens; among equals, smaller tokens come first.

    `topk` orders and selects equal values arbitrarily; this function corrects both.
    """
    values, tokens = log_p.topk(min(k + 1, log_p.shape[1]), dim=1)
    cut = (values[:, k - 1] == values[:, -1]) & (values.shape[1] > k)
    values, tokens = values[:, :k], tokens[:, :k]
    if cut.any():
        tokens[cut] = _smallest_at_the_end(log_p[cut], values[cut], tokens[cut])
    tokens = tokens.sort(dim=1).values
    values, order = log_p.gather(1, tokens).sort(dim=1, descending=True, stable=True)
    return values, tokens.gather(1, order)


def _smallest_at_the_end(
    log_p: Float[Tensor, "R V"], values: Float[Tensor, "R K"], tokens: Int[Tensor, "R K"]
) -> Int[Tensor, "R K"]:
    """Replace the tokens with the last value by the smallest tokens that have this value."""
    countdown = torch.arange(log_p.shape[1], 0, -1, device=log_p.device, dtype=torch.float32)
    smallest = ((log_p == values[:, -1:]) * countdown).topk(values.shape[1], dim=1).indices
    above = values > values[:, -1:]
    place = torch.arange(values.shape[1], device=log_p.device) - above.sum(dim=1, keepdim=True)
    return torch.where(above, tokens, smallest.gather(1, place.clamp_min(0)))


class _Beam(NamedTuple):
    """The last token of an output, and the tokens before it as a linked list."""

    token: int
    before: "_Beam | None"


class _Row:
    """The search of one row: its open beams, and the best of its ended ones. It contains no tensors."""

    def __init__(self, options: BeamOptions, *, limit: int, eos_id: int) -> None:
        self._options = options
        self._limit = limit
        self._eos_id = eos_id
        self._length = 0
        self._beams: list[_Beam | None] = [None]
        self._ended: list[Hypothesis] = []
        self.sums = [0.0]  # of log probabilities, one for each beam; -inf: there is none

    def advance(self, parents: list[int], tokens: list[int], sums: list[float]) -> None:
        """Take the best continuations, each with the index of its parent beam; a sum of -inf means none."""
        if any(map(math.isnan, sums)):
            raise ArgumentError("the model's logits are NaN", "finite logits", "train the model again")
        self._length += 1
        beams = [_Beam(token, self._beams[parent]) for token, parent in zip(tokens, parents, strict=True)]
        ends = [token == self._eos_id for token in tokens]
        for beam, end, total in zip(beams, ends, sums, strict=True):
            if end and total > _NEVER:
                self._ended.append(self._hypothesis(beam.before, total, ended=True))
        self._ended = _best(self._ended, self._options.n_best)
        self._beams = list(beams)
        self.sums = [_NEVER if end else total for end, total in zip(ends, sums, strict=True)]

    @property
    def done(self) -> bool:
        """Whether no better output can be found.

        Log probabilities are at most 0, so the sum of an open beam cannot increase. Divided by a power of the
        length, it is best at the maximum length.
        """
        best_sum = max(self.sums)
        if self._length == self._limit or best_sum == _NEVER:
            return True
        if len(self._ended) < self._options.n_best:
            return False
        at_best: float = best_sum / self._limit**self._options.length_penalty
        return at_best <= self._ended[-1].score

    def hypotheses(self) -> list[Hypothesis]:
        """Return the best outputs so far."""
        cut = [
            self._hypothesis(beam, total, ended=False)
            for beam, total in zip(self._beams, self.sums, strict=True)
            if total > _NEVER
        ]
        return [*self._ended, *_best(cut, self._options.n_best)][: self._options.n_best]

    def _hypothesis(self, beam: _Beam | None, total: float, *, ended: bool) -> Hypothesis:
        ids = []
        while beam is not None:
            ids.append(beam.token)
            beam = beam.before
        score = total / self._length**self._options.length_penalty
        return Hypothesis(ids=ids[::-1], score=score, ended=ended)


class _Frontier:
    """The open beams of all rows that are not done, as tensors aligned with the cache."""

    def __init__(self, rows: Sequence[_Row], beams: int, cache: KVCache, *, n_read: int) -> None:
        self.rows = list(rows)
        self._beams = beams
        self._cache = cache
        self._n_read = n_read  # tokens that all beams of a row share
        self._sums = torch.zeros(len(rows), 1, dtype=torch.float64, device=cache.segment_ids.device)

    def advance(self, log_p: Float[Tensor, "R V"]) -> Int[Tensor, "M 1"]:
        """Choose the best continuations of all beams; return the next inputs, one for each open beam."""
        n_before = self._sums.shape[1]  # 1 at first, and then the number of beams
        sums, parents, tokens = self._choose(log_p)
        continuations = zip(parents.tolist(), tokens.tolist(), sums.tolist(), strict=True)
        for row, chosen in zip(self.rows, continuations, strict=True):
            row.advance(*chosen)
        kept = [i for i, row in enumerate(self.rows) if not row.done]
        starts = n_before * torch.arange(len(self.rows), device=parents.device).unsqueeze(1)
        cached = (starts + parents)[kept].flatten()
        if len(kept) == len(self.rows) and n_before == self._beams:
            self._cache.exchange(cached, since=self._n_read)
        elif kept:
            self._cache.reorder(cached)
        self.rows = [self.rows[i] for i in kept]
        self._sums = self._sums.new_tensor([row.sums for row in self.rows])
        return tokens[kept].reshape(-1, 1)

    def _choose(
        self, log_p: Float[Tensor, "R V"]
    ) -> tuple[Float[Tensor, "N K"], Int[Tensor, "N K"], Int[Tensor, "N K"]]:
        """Return the best sums of each row, with their parent beams and tokens."""
        n_rows, n_before = self._sums.shape
        values, tokens = best_tokens(log_p, self._beams)
        sums = (self._sums.unsqueeze(2) + values.reshape(n_rows, n_before, self._beams)).flatten(1)
        sums, index = (part[:, : self._beams] for part in sums.sort(dim=1, descending=True, stable=True))
        return sums, index // self._beams, tokens.reshape(n_rows, -1).gather(1, index)


def _best(hypotheses: list[Hypothesis], n: int) -> list[Hypothesis]:
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)[:n]


def _limits(options: BeamOptions, max_new: Sequence[int] | None, n_rows: int) -> list[int]:
    if max_new is None:
        return [options.max_new_tokens] * n_rows
    if len(max_new) != n_rows or min(max_new) < 1:
        raise ArgumentError(
            f"max_new is {list(max_new)} for {n_rows} prompts",
            "1 or more for each prompt",
            "give the maximum length of each output",
        )
    return [min(n, options.max_new_tokens) for n in max_new]


def _check_beams(options: BeamOptions, *, n_tokens: int) -> None:
    if options.beams > n_tokens:
        raise ArgumentError(
            f"beams is {options.beams}, but there are only {n_tokens} tokens",
            f"at most {n_tokens}",
            "use fewer beams",
        )


def _new_cache(backbone: Writer, n_read: Sequence[int], limits: Sequence[int]) -> KVCache:
    """Return a cache for the longest prompt and the longest output, which may belong to different rows."""
    return backbone.new_cache(
        len(n_read),
        max(n_read) + max(limits) - 1,
        max_real_tokens=max(n + limit - 1 for n, limit in zip(n_read, limits, strict=True)),
    )
