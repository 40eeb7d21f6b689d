"""Continuous batching: finished rows leave a batch during generation, and new rows enter it.

Source: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models",
section 3.1 (iteration-level scheduling). A prompt is read in a batch of its own and then joins the cache.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modules.cache import KVCache
from modules.decoding import check_room, first_batch, forbidden_mask
from modules.errors import ArgumentError
from modules.generation import RowSampler, SamplingOptions, choose_tokens
from modules.model import Model
from modules.transformer import Decoder

K = TypeVar("K", bound=Hashable)


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
        self._rows: list[_Row[K]] = []
        self._cache: KVCache | None = None
        self._last: Int[Tensor, " B"] | None = None

    def __len__(self) -> int:
        return len(self._rows) + len(self._waiting)

    @property
    def keys(self) -> list[K]:
        """The keys of the rows in the batch, and of those that enter at the next step."""
        return [row.key for row in (*self._rows, *self._waiting)]

    def add(self, key: K, prompt: Sequence[int], options: SamplingOptions, *, number: int = 0) -> None:
        """Add a row that enters at the next step; `number` distinguishes rows with the same prompt and seed.

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
        self._keep([number for number, row in enumerate(self._rows) if row.key not in keys])

    @torch.no_grad()
    def step(self) -> dict[K, NextToken]:
        """Generate one more token for every row, and the first one for each new row."""
        tokens: dict[K, NextToken] = {}
        if self._rows:
            tokens |= self._note(self._decode())
        if self._waiting:
            tokens |= self._enter()
        return tokens

    def _decode(self) -> Int[Tensor, " B"]:
        assert self._cache is not None
        assert self._last is not None
        hidden = self._backbone.forward({"input_ids": self._last.unsqueeze(1)}, self._cache)
        return self._choose(hidden)

    def _choose(self, hidden: Float[Tensor, "B T D"]) -> Int[Tensor, " B"]:
        logits = self._model.head.forward(hidden[:, -1]).float()
        return choose_tokens(logits, [row.sampler for row in self._rows], self._forbidden)

    def _enter(self) -> dict[K, NextToken]:
        """Read the prompts of new rows as a batch of their own, and join it with the others."""
        others, cache, last = self._rows, self._cache, self._last
        self._rows, self._waiting = self._waiting, []
        prompts = [row.prompt for row in self._rows]
        batch, _, _ = first_batch(self._backbone, prompts, pad_id=self._pad_id, bos_id=None)
        room = 0 if others else self._room(self._rows)  # what joins others is copied
        self._cache = self._backbone.new_cache(
            len(prompts), batch["input_ids"].shape[1] + room, max_real_tokens=max(map(len, prompts))
        )
        tokens = self._note(self._choose(self._backbone.forward(batch, self._cache)))
        if others:
            self._join(others, cache, last)
        return tokens

    def _note(self, chosen: Int[Tensor, " B"]) -> dict[K, NextToken]:
        """Record the chosen tokens, and drop the rows that have ended."""
        tokens: dict[K, NextToken] = {}
        self._last = chosen
        for number, (row, token) in enumerate(zip(self._rows, chosen.tolist(), strict=True)):
            n_new = row.n_new + 1
            if token == self._eos_id:
                tokens[row.key] = NextToken(token=None, ended="stop")
            else:
                full = n_new == row.sampler.options.max_new_tokens
                tokens[row.key] = NextToken(token=token, ended="length" if full else None)
            self._rows[number] = replace(row, n_new=n_new)
        self._keep([n for n, row in enumerate(self._rows) if tokens[row.key].ended is None])
        return tokens

    def _keep(self, numbers: list[int]) -> None:
        """Keep only these rows in the batch."""
        if len(numbers) == len(self._rows):
            return
        rows, cache, last = [self._rows[number] for number in numbers], self._cache, self._last
        self._rows, self._cache, self._last = [], None, None
        if rows and cache is not None and last is not None:
            chosen = torch.tensor(numbers, device=last.device)
            self._rows, self._last = rows, last[chosen]
            self._cache = KVCache.of_rows([(cache, chosen)], room=self._room(rows))

    def _join(self, others: list[_Row[K]], cache: KVCache | None, last: Int[Tensor, " B"] | None) -> None:
        """Join the rows that were in the batch before with those that have entered, in this order."""
        parts: list[tuple[KVCache, Int[Tensor, " M"]]] = []
        last_tokens: list[Tensor] = []
        for rows, its_cache, its_last in ((others, cache, last), (self._rows, self._cache, self._last)):
            if rows and its_cache is not None and its_last is not None:
                parts.append((its_cache, torch.arange(len(rows), device=its_last.device)))
                last_tokens.append(its_last)
        self._rows = others + self._rows
        if parts:
            self._cache = KVCache.of_rows(parts, room=self._room(self._rows))
            self._last = torch.cat(last_tokens)

    @staticmethod
    def _room(rows: Sequence[_Row[K]]) -> int:
        """Return the maximum number of tokens that any row may still read."""
        return max(row.sampler.options.max_new_tokens - row.n_new for row in rows)
