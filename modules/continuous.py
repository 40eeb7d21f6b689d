"""Continuous batching: finished rows leave a batch during generation, and new rows enter it.

Source: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models",
section 3.1 (iteration-level scheduling). Prompts are read in batches of their own and then join the cache.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from modules.cache import KVCache
from modules.decoding import check_room, first_batch, forbidden_mask
from modules.errors import ArgumentError
from modules.generation import RowSampler, SamplingOptions, choose_tokens
from modules.model import Model
from modules.transformer import Decoder

K = TypeVar("K", bound=Hashable)

#: New rows that are fewer than half of those in the batch wait for others, but at most this number of steps.
MAX_WAITING_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """The next token of a row, and whether the row has ended with it.

    Args:
        token: the token; None if the row ended with the end token, which is not returned.
        ended: "stop" at the end token, "length" at `max_new_tokens`, None if the row continues.
    """

    token: int | None
    ended: Literal["stop", "length"] | None


@dataclass(frozen=True, kw_only=True)
class _Row(Generic[K]):
    key: K
    prompt: Sequence[int]
    sampler: RowSampler
    n_new: int = 0
    ended: bool = False

    @property
    def room(self) -> int:
        """The maximum number of tokens that the row may still read."""
        return self.sampler.options.max_new_tokens - self.n_new


@dataclass(frozen=True, kw_only=True)
class _Part(Generic[K]):
    """Rows whose prompts have been read, their cache, and the last token of each, which is not yet read."""

    rows: Sequence[_Row[K]]
    cache: KVCache
    last: Int[Tensor, " B"]


class DecodingBatch(Generic[K]):
    """A batch of rows that one Decoder generates together, each with its own options.

    The tokens of a row are those of `modules.generation.generate` for its prompt alone, regardless of the
    other rows in the batch.

    Args:
        model: a model with a Decoder and a language-model head; it is set to evaluation mode.
        eos_id: the token that ends a row.
        pad_id: the token that pads shorter prompts on the left.
        forbidden_ids: tokens that are never chosen.

    Raises:
        ArgumentError: the backbone is not a Decoder.
    """

    def __init__(self, model: Model, *, eos_id: int, pad_id: int, forbidden_ids: Sequence[int] = ()) -> None:
        if not isinstance(model.backbone, Decoder):
            raise ArgumentError(
                f"a model with {type(model.backbone).__name__} does not support continuous batching",
                "a Decoder",
                "use `generate` or `beam_search`",
            )
        if any(module.training for module in model.modules()):  # a third of a small model's step, where not
            model.eval()
        self._model, self._backbone = model, model.backbone
        self._eos_id, self._pad_id = eos_id, pad_id
        self._forbidden = forbidden_mask(self._backbone, forbidden_ids, eos_id=eos_id)
        self._waiting: list[_Row[K]] = []
        self._running: _Part[K] | None = None
        self._waited_steps = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def keys(self) -> list[K]:
        """The keys of the rows in the batch, and of those that wait to enter."""
        running = [] if self._running is None else self._running.rows
        return [row.key for row in (*running, *self._waiting)]

    def add(self, key: K, prompt: Sequence[int], options: SamplingOptions, *, number: int = 0) -> None:
        """Add a row that enters at one of the next steps.

        `number` distinguishes rows with the same prompt and seed.

        Raises:
            ArgumentError: the prompt is empty, or the prompt and its output exceed the positions.
        """
        if not prompt:
            raise ArgumentError("the prompt is empty", "at least one token", "begin the prompt with <bos>")
        check_room(self._backbone, [prompt], [options.max_new_tokens])
        sampler = RowSampler(options, number)
        sampler.note(prompt, self._forbidden)
        self._waiting.append(_Row(key=key, prompt=prompt, sampler=sampler))

    def remove(self, keys: set[K]) -> None:
        """Remove rows before they have ended."""
        self._waiting = [row for row in self._waiting if row.key not in keys]
        if self._running is not None:
            self._running = _joined([self._running], lambda row: row.key not in keys)

    @torch.inference_mode()
    def step(self) -> dict[K, NextToken]:
        """Generate one more token for every row in the batch, and the first one for each row that enters."""
        parts = [] if self._running is None else [self._decode(self._running)]
        groups = self._entering()
        alone = len(parts) + len(groups) == 1  # the cache of others is copied when they are joined
        parts += [self._read(rows, room=max(row.room for row in rows) if alone else 0) for rows in groups]
        tokens: dict[K, NextToken] = {}
        parts = [self._noted(part, tokens) for part in parts]
        self._running = _joined(parts, lambda row: not row.ended)
        return tokens

    def _entering(self) -> list[list[_Row[K]]]:
        """Return the rows that enter at this step, those with prompts of similar length together.

        Reading a short prompt takes a small model as long as reading several, and all rows in the batch wait
        for it. So new rows wait for others, as in Text Generation Inference (its options
        `waiting_served_ratio` and `max_waiting_tokens`).
        """
        n_running = 0 if self._running is None else len(self._running.rows)
        if 2 * len(self._waiting) < n_running and self._waited_steps < MAX_WAITING_STEPS:
            self._waited_steps += bool(self._waiting)
            return []
        groups: dict[int, list[_Row[K]]] = {}
        for row in self._waiting:  # in a group, all prompts are short, or at most half of the tokens padding
            groups.setdefault(max(len(row.prompt), 16).bit_length(), []).append(row)
        self._waiting, self._waited_steps = [], 0
        return list(groups.values())

    def _decode(self, part: _Part[K]) -> _Part[K]:
        return self._forward(part.rows, {"input_ids": part.last.unsqueeze(1)}, part.cache)

    def _read(self, rows: Sequence[_Row[K]], *, room: int) -> _Part[K]:
        """Read the prompts of new rows into a cache with space for more tokens."""
        prompts = [row.prompt for row in rows]
        batch, _, _ = first_batch(self._backbone, prompts, pad_id=self._pad_id, bos_id=None)
        cache = self._backbone.new_cache(
            len(prompts), batch["input_ids"].shape[1] + room, max_real_tokens=max(map(len, prompts))
        )
        return self._forward(rows, batch, cache)

    def _forward(self, rows: Sequence[_Row[K]], batch: dict[str, Tensor], cache: KVCache) -> _Part[K]:
        hidden = self._backbone.forward(batch, cache)
        logits = self._model.head.forward(hidden[:, -1]).float()
        chosen = choose_tokens(logits, [row.sampler for row in rows], self._forbidden)
        return _Part(rows=rows, cache=cache, last=chosen)

    def _noted(self, part: _Part[K], tokens: dict[K, NextToken]) -> _Part[K]:
        """Record the chosen tokens, also in `tokens`, and mark the rows that have ended."""
        rows = []
        for row, token in zip(part.rows, part.last.tolist(), strict=True):
            if token == self._eos_id:
                step = NextToken(token=None, ended="stop")
            else:
                step = NextToken(token=token, ended="length" if row.room == 1 else None)
            tokens[row.key] = step
            rows.append(replace(row, n_new=row.n_new + 1, ended=step.ended is not None))
        return replace(part, rows=rows)


def _joined(parts: Sequence[_Part[K]], stays: Callable[[_Row[K]], bool]) -> _Part[K] | None:
    """Return the rows of all parts that stay, in order; None if no row does."""
    kept = [(part, [n for n, row in enumerate(part.rows) if stays(row)]) for part in parts]
    kept = [(part, numbers) for part, numbers in kept if numbers]
    if not kept:
        return None
    rows = [part.rows[number] for part, numbers in kept for number in numbers]
    room = max(row.room for row in rows)
    first = kept[0][0]
    is_whole = len(kept) == 1 and len(rows) == len(first.rows)
    if is_whole and first.cache.length + room <= first.cache.max_tokens:
        return first
    chosen = [(part, torch.tensor(numbers, device=part.last.device)) for part, numbers in kept]
    return _Part(
        rows=rows,
        cache=KVCache.of_rows([(part.cache, numbers) for part, numbers in chosen], room=room),
        last=torch.cat([part.last[numbers] for part, numbers in chosen]),
    )
