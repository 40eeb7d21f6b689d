"""Attention masks as values: built once per forward pass and passed to the attention, which has no flags."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modules.errors import ArgumentError


@dataclass(frozen=True)
class Mask:
    """The keys that a query may attend to: all (`Mask()`), earlier ones, given pairs; or a bias.

    At most one tensor is used: `allowed` (True: the query may look at the key) or `bias` (added to the
    scores, -inf where it may not look). With `causal` no query looks at later keys: by itself it needs no
    tensor, and beside a tensor, which then says so too, it tells a kernel that half of the scores need not
    be computed. `alive` tells the queries that may look at any key at all; the others get zeros. It is None
    where each query sees itself.
    """

    causal: bool = False
    allowed: Bool[Tensor, "#B 1 #T S"] | None = None
    bias: Float[Tensor, "#B #H T S"] | None = None
    alive: Bool[Tensor, "#B 1 #T 1"] | None = None

    @classmethod
    def past(cls) -> "Mask":
        """Each token sees itself and what came before it (Vaswani et al. 2017, section 3.2.3)."""
        return cls(causal=True)

    @classmethod
    def segments(cls, segment_ids: Int[Tensor, "B T"]) -> "Mask":
        """Self-attention within a document; padding (segment 0) sees padding, so every query has a key."""
        return cls(allowed=_same(segment_ids, segment_ids))

    @classmethod
    def continued(cls, segment_ids: Int[Tensor, "B T"], all_segment_ids: Int[Tensor, "B S"]) -> "Mask":
        """Causal self-attention of the last T of S tokens, the others being in a cache."""
        n_new, n_all = segment_ids.shape[1], all_segment_ids.shape[1]
        past = torch.ones(n_new, n_all, dtype=torch.bool, device=segment_ids.device).tril(n_all - n_new)
        return cls(allowed=_same(segment_ids, all_segment_ids) & past)

    @classmethod
    def memory(cls, memory_segment_ids: Int[Tensor, "B S"]) -> "Mask":
        """Cross-attention to all of a memory but its padding (segment 0)."""
        return cls._with_blind_rows((memory_segment_ids != 0)[:, None, None, :])

    @classmethod
    def across(cls, segment_ids: Int[Tensor, "B T"], memory_segment_ids: Int[Tensor, "B S"]) -> "Mask":
        """Cross-attention within the same document; padding sees nothing."""
        real = (memory_segment_ids != 0)[:, None, None, :]
        return cls._with_blind_rows(_same(segment_ids, memory_segment_ids) & real)

    @classmethod
    def _with_blind_rows(cls, allowed: Bool[Tensor, "B 1 #T S"]) -> "Mask":
        """Let a query without keys attend to all keys and zero its output later: its softmax would be NaN."""
        alive = allowed.any(dim=-1, keepdim=True)
        return cls(allowed=allowed | ~alive, alive=alive)

    def __and__(self, other: "Mask") -> "Mask":
        """What both masks of the same self-attention allow."""
        if any(part is not None for part in (self.bias, other.bias, self.alive, other.alive)):
            raise ArgumentError(
                "a mask with a bias or of cross-attention was joined",
                "two masks of self-attention",
                "leave the bias out",
            )
        causal = self.causal or other.causal
        if self.allowed is None and other.allowed is None:
            return Mask(causal=causal)
        allowed = _joined(self.allowed, other.allowed)
        return Mask(causal=causal, allowed=allowed.tril() if causal else allowed)

    def with_bias(self, bias: Float[Tensor, "#B H T S"] | None) -> "Mask":
        """This mask with `bias` added to the scores (ALiBi)."""
        if bias is None:
            return self
        allowed = self.allowed
        if allowed is None and self.causal:
            allowed = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril()[None, None]
        if allowed is not None:
            bias = bias.masked_fill(~allowed, float("-inf"))
        return Mask(causal=self.causal, bias=bias, alive=self.alive)

    def additive(self, n_queries: int, n_keys: int, like: Tensor) -> Float[Tensor, "#B #H T S"] | None:
        """What to add to scores of the type of `like`: 0 or the bias, and -inf; None where all is seen."""
        if self.bias is not None:
            return self.bias.to(like.dtype)
        allowed = self.allowed
        if allowed is None and self.causal:
            ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=like.device)
            allowed = ones.tril(n_keys - n_queries)[None, None]
        if allowed is None:
            return None
        return torch.zeros_like(allowed, dtype=like.dtype).masked_fill(~allowed, float("-inf"))


def _same(segment_ids: Int[Tensor, "B T"], other: Int[Tensor, "B S"]) -> Bool[Tensor, "B 1 T S"]:
    return segment_ids[:, None, :, None] == other[:, None, None, :]


def _joined(first: Tensor | None, second: Tensor | None) -> Tensor:
    if first is not None and second is not None:
        return first & second
    if first is not None:
        return first
    assert second is not None
    return second
