"""What a decoder has seen: keys and values, kept from one token to the next while a text is written."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modules.errors import ArgumentError


class LayerCache:
    """Keys and values that one attention has seen: room for `max_tokens`, taken at the first use."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(
        self, keys: Float[Tensor, "B H T K"], values: Float[Tensor, "B H T K"]
    ) -> tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]:
        """Store the next T tokens and give back all S so far.

        Raises:
            ArgumentError: if there is no room.
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
        """All keys and values so far."""
        assert self._keys is not None
        assert self._values is not None
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def reorder(self, rows: Int[Tensor, " M"]) -> None:
        """Take these rows of the batch, in this order, some perhaps twice (beams)."""
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._taken(self._keys, rows), self._taken(self._values, rows)

    def _taken(self, stored: Tensor, rows: Int[Tensor, " M"]) -> Tensor:
        taken = stored.new_empty(len(rows), *stored.shape[1:])
        taken[:, :, : self.length] = stored[:, :, : self.length][rows]
        return taken

    def put(self, other: "LayerCache", rows: Int[Tensor, " M"], *, first_row: int, n_rows: int) -> None:
        """Let rows of another cache be the rows from `first_row` on, so that both end at the same token.

        `n_rows` is how many rows this cache has, and `length` must be known already. What the other has more
        than `length` tokens is left out at its beginning.
        """
        width = min(other.length, self.length)
        keys, values = (part[rows, :, other.length - width :] for part in other.stored())
        if self._keys is None or self._values is None:
            shape = (n_rows, keys.shape[1], self.max_tokens, keys.shape[3])
            self._keys, self._values = keys.new_zeros(shape), values.new_zeros(shape)
        place = slice(first_row, first_row + len(rows)), slice(None), slice(self.length - width, self.length)
        self._keys[place], self._values[place] = keys, values

    def move(self, rows: Int[Tensor, " M"], into: Int[Tensor, " M"], *, since: int) -> None:
        """Let these rows of the batch, as they are now, replace others from token `since` on."""
        for stored in (self._keys, self._values):
            if stored is not None:
                part = stored[:, :, since : self.length]
                part[into] = part[rows]


@dataclass(frozen=True)
class Memory:
    """An encoder's output, with the documents of its source (0: padding); `packed`: several in a row."""

    hidden: Float[Tensor, "B S D"]
    segment_ids: Int[Tensor, "B S"] | None = None
    packed: bool = False

    def reorder(self, rows: Int[Tensor, " M"]) -> "Memory":
        """These rows of the batch, in this order."""
        segment_ids = None if self.segment_ids is None else self.segment_ids[rows]
        return Memory(self.hidden[rows], segment_ids, self.packed)


class KVCache:
    """What a decoder has seen: keys and values of each layer, and which tokens are real and where they stand.

    Made by a decoder's `new_cache`; it is filled by each forward that it is given to.
    """

    def __init__(
        self, n_layers: int, *, batch_size: int, max_tokens: int, device: torch.device | None = None
    ) -> None:
        self.length = 0
        self.max_tokens = max_tokens
        self.layers = [LayerCache(max_tokens) for _ in range(n_layers)]
        self.memory_layers: list[LayerCache] = []
        self.memory: Memory | None = None
        self._segment_ids = torch.zeros(batch_size, max_tokens, dtype=torch.int64, device=device)
        self._position_ids = torch.zeros(batch_size, max_tokens, dtype=torch.int64, device=device)

    @classmethod
    def of_rows(cls, parts: Sequence[tuple["KVCache", Int[Tensor, " M"]]], *, room: int) -> "KVCache":
        """A new cache of some rows of several decoders' caches, in this order, with room for more tokens.

        All rows end at the same token; shorter ones have padding before them, and no more than the longest
        one asks for. So rows can leave a batch that is being written, and others enter it.
        """
        n_rows = sum(len(rows) for _, rows in parts)
        length = max(cache._longest(rows) for cache, rows in parts)
        device = parts[0][0]._segment_ids.device
        made = cls(len(parts[0][0].layers), batch_size=n_rows, max_tokens=length + room, device=device)
        first = 0
        for cache, rows in parts:
            made._put(cache, rows, first_row=first, n_rows=n_rows, length=length)
            first += len(rows)
        return made

    def _longest(self, rows: Int[Tensor, " M"]) -> int:
        """From the first real token of any of these rows on, how many tokens there are."""
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
        """Keep an encoder's output; its keys and values are computed once, by the first forward."""
        self.memory = memory
        self.memory_layers = [LayerCache(memory.hidden.shape[1]) for _ in self.layers]

    def next_position_ids(self, segment_ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """Positions of the next tokens where none are given: each real one is one further than the last."""
        seen = (self._segment_ids[:, : self.length] != 0).sum(dim=1, keepdim=True)
        return (seen + (segment_ids != 0).cumsum(dim=1) - 1).clamp_min(0)

    def append(self, segment_ids: Int[Tensor, "B T"], position_ids: Int[Tensor, "#B T"]) -> None:
        """Note the next T tokens of each row (segment 0: padding).

        Raises:
            ArgumentError: if there is no room.
        """
        end = self.length + segment_ids.shape[1]
        _check_room(end, self.max_tokens)
        self._segment_ids[:, self.length : end] = segment_ids
        self._position_ids[:, self.length : end] = position_ids
        self.length = end

    @property
    def segment_ids(self) -> Int[Tensor, "B S"]:
        """Document of each token so far; 0 is padding."""
        return self._segment_ids[:, : self.length]

    @property
    def position_ids(self) -> Int[Tensor, "B S"]:
        """Position of each token so far."""
        return self._position_ids[:, : self.length]

    def reorder(self, rows: Int[Tensor, " M"]) -> None:
        """Take these rows of the batch, in this order, some perhaps twice (beams)."""
        for layer in (*self.layers, *self.memory_layers):
            layer.reorder(rows)
        self._segment_ids, self._position_ids = self._segment_ids[rows], self._position_ids[rows]
        if self.memory is not None:
            self.memory = self.memory.reorder(rows)

    def exchange(self, rows: Int[Tensor, " B"], *, since: int) -> None:
        """As `reorder`, where a row and the one that it takes share what was read before `since`, and memory.

        So it is with the beams of one prompt: only what they wrote is moved, and only where they change.
        """
        (into,) = (rows != torch.arange(len(rows), device=rows.device)).nonzero(as_tuple=True)
        for layer in self.layers:
            layer.move(rows[into], into, since=since)


def _check_room(n_tokens: int, max_tokens: int) -> None:
    if n_tokens > max_tokens:
        raise ArgumentError(
            f"the cache has room for {max_tokens} tokens and {n_tokens} were given",
            "no more",
            "make the cache with a larger max_tokens",
        )
