"""The key-value cache: keys and values of the tokens that a decoder has read during generation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modules.errors import ArgumentError


class LayerCache:
    """The keys and values of one attention layer, with space for `max_tokens`, allocated at the first use."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(
        self, keys: Float[Tensor, "B H T K"], values: Float[Tensor, "B H T K"]
    ) -> tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]:
        """Append the keys and values of the next T tokens, and return those of all S tokens so far.

        Raises:
            ArgumentError: the cache is full.
        """
        end = self.length + keys.shape[2]
        _check_room(end, self.max_tokens)
        if self._keys is None or self._values is None:
            shape = (*keys.shape[:2], self.max_tokens, keys.shape[3])
            self._keys, self._values = keys.new_zeros(shape), values.new_zeros(shape)
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end
        return self.stored()

    def stored(self) -> tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]:
        """Return all keys and values so far."""
        assert self._keys is not None
        assert self._values is not None
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def reorder(self, rows: Int[Tensor, " M"]) -> None:
        """Select rows of the batch in this order, possibly repeated (beams)."""
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._taken(self._keys, rows), self._taken(self._values, rows)

    def _taken(self, stored: Tensor, rows: Int[Tensor, " M"]) -> Tensor:
        taken = stored.new_empty(len(rows), *stored.shape[1:])
        taken[:, :, : self.length] = stored[:, :, : self.length][rows]
        return taken

    def put(self, other: "LayerCache", rows: Int[Tensor, " M"], *, first_row: int, n_rows: int) -> None:
        """Copy rows of another cache to the rows from `first_row` on, aligned at the last token.

        This cache has `n_rows` rows, and its `length` must be set. If the other cache is longer, its first
        tokens are left out.
        """
        width = min(other.length, self.length)
        keys, values = (part[rows, :, other.length - width :] for part in other.stored())
        if self._keys is None or self._values is None:
            shape = (n_rows, keys.shape[1], self.max_tokens, keys.shape[3])
            self._keys, self._values = keys.new_zeros(shape), values.new_zeros(shape)
        place = slice(first_row, first_row + len(rows)), slice(None), slice(self.length - width, self.length)
        self._keys[place], self._values[place] = keys, values

    def move(self, rows: Int[Tensor, " M"], into: Int[Tensor, " M"], *, since: int) -> None:
        """Replace the rows `into` by `rows`, from token `since` on."""
        for stored in (self._keys, self._values):
            if stored is not None:
                part = stored[:, :, since : self.length]
                part[into] = part[rows]


@dataclass(frozen=True)
class Memory:
    """The output of an encoder, with the segment ids of the source; `packed`: a row has several documents."""

    hidden: Float[Tensor, "B S D"]
    segment_ids: Int[Tensor, "B S"] | None = None
    packed: bool = False

    def reorder(self, rows: Int[Tensor, " M"]) -> "Memory":
        """Return these rows of the batch, in this order."""
        segment_ids = None if self.segment_ids is None else self.segment_ids[rows]
        return Memory(self.hidden[rows], segment_ids, self.packed)


class KVCache:
    """The keys and values of each layer of a decoder, and the segment and position of each token.

    Created by a decoder's `new_cache`, and filled by each forward pass that receives it. `one_segment` is
    True as long as no batch had segments or padding.
    """

    def __init__(
        self, n_layers: int, *, batch_size: int, max_tokens: int, device: torch.device | None = None
    ) -> None:
        self.length = 0
        self.max_tokens = max_tokens
        self.one_segment = True
        self.layers = [LayerCache(max_tokens) for _ in range(n_layers)]
        self.memory_layers: list[LayerCache] = []
        self.memory: Memory | None = None
        self._segment_ids = torch.zeros(batch_size, max_tokens, dtype=torch.int64, device=device)
        self._position_ids = torch.zeros(batch_size, max_tokens, dtype=torch.int64, device=device)

    @classmethod
    def of_rows(cls, parts: Sequence[tuple["KVCache", Int[Tensor, " M"]]], *, room: int) -> "KVCache":
        """Return a new cache with rows of several decoders' caches, in order, with space for more tokens.

        All rows end at the same token; shorter ones are padded on the left, to the length of the longest.
        Thus rows can leave and enter a batch during generation.
        """
        n_rows = sum(len(rows) for _, rows in parts)
        length = max(cache._longest(rows) for cache, rows in parts)
        device = parts[0][0]._segment_ids.device
        joined = cls(len(parts[0][0].layers), batch_size=n_rows, max_tokens=length + room, device=device)
        joined.one_segment = all(cache.one_segment and cache.length == length for cache, _ in parts)
        first = 0
        for cache, rows in parts:
            joined._put(cache, rows, first_row=first, n_rows=n_rows, length=length)
            first += len(rows)
        return joined

    def _longest(self, rows: Int[Tensor, " M"]) -> int:
        """Return the number of tokens from the first real token of any of these rows."""
        return self.length - int((self.segment_ids[rows] != 0).any(dim=0).int().argmax())

    def _put(
        self, other: "KVCache", rows: Int[Tensor, " M"], *, first_row: int, n_rows: int, length: int
    ) -> None:
        self.length, width = length, min(other.length, length)
        place = slice(first_row, first_row + len(rows)), slice(length - width, length)
        self._segment_ids[place] = other.segment_ids[rows, other.length - width :]
        self._position_ids[place] = other.position_ids[rows, other.length - width :]
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.length = length
            mine.put(theirs, rows, first_row=first_row, n_rows=n_rows)

    def set_memory(self, memory: Memory) -> None:
        """Store the output of an encoder; the first forward pass computes its keys and values."""
        self.memory = memory
        self.memory_layers = [LayerCache(memory.hidden.shape[1]) for _ in self.layers]

    def next_position_ids(self, segment_ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """Return the positions of the next tokens: each real token is one further than the one before."""
        seen = (self._segment_ids[:, : self.length] != 0).sum(dim=1, keepdim=True)
        return (seen + (segment_ids != 0).cumsum(dim=1) - 1).clamp_min(0)

    def append(
        self,
        segment_ids: Int[Tensor, "B T"],
        position_ids: Int[Tensor, "#B T"],
        *,
        one_segment: bool = False,
    ) -> None:
        """Append the segments (0: padding) and positions of the next T tokens of each row.

        With `one_segment`, all of them are known to be of segment 1.

        Raises:
            ArgumentError: the cache is full.
        """
        end = self.length + segment_ids.shape[1]
        _check_room(end, self.max_tokens)
        self._segment_ids[:, self.length : end] = segment_ids
        self._position_ids[:, self.length : end] = position_ids
        self.length = end
        self.one_segment = self.one_segment and one_segment

    @property
    def segment_ids(self) -> Int[Tensor, "B S"]:
        """The segment of each token so far; 0 is padding."""
        return self._segment_ids[:, : self.length]

    @property
    def position_ids(self) -> Int[Tensor, "B S"]:
        """The position of each token so far."""
        return self._position_ids[:, : self.length]

    def reorder(self, rows: Int[Tensor, " M"]) -> None:
        """Select rows of the batch in this order, possibly repeated (beams)."""
        for layer in (*self.layers, *self.memory_layers):
            layer.reorder(rows)
        self._segment_ids, self._position_ids = self._segment_ids[rows], self._position_ids[rows]
        if self.memory is not None:
            self.memory = self.memory.reorder(rows)

    def exchange(self, rows: Int[Tensor, " B"], *, since: int) -> None:
        """Reorder rows that share their memory and all tokens before `since` with the rows they replace.

        This holds for the beams of one prompt. Only generated tokens are copied, and only in rows that
        change.
        """
        (into,) = (rows != torch.arange(len(rows), device=rows.device)).nonzero(as_tuple=True)
        for layer in self.layers:
            layer.move(rows[into], into, since=since)


def _check_room(n_tokens: int, max_tokens: int) -> None:
    if n_tokens > max_tokens:
        raise ArgumentError(
            f"the cache has space for {max_tokens} tokens, but received {n_tokens}",
            f"at most {max_tokens}",
            "create the cache with a larger max_tokens",
        )
