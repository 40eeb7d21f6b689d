"""Attention masks as values, which are built once per forward pass and passed to the attention modules."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modules.errors import ArgumentError


@dataclass(frozen=True)
class Mask:
    """The keys that each query may attend to: all (`Mask()`), earlier ones, given pairs, or a bias.

    At most one tensor is used: `allowed` (True where a query may attend to a key) or `bias` (added to the
    scores, -inf where it may not). With `causal`, no query attends to later keys. By itself it needs no
    tensor; next to a tensor that says the same, it tells a kernel that half of the scores need not be
    computed. `alive` marks the queries that have any key; the outputs of the others are set to zero. It is
    None if every query has one.
    """

    causal: bool = False
    allowed: Bool[Tensor, "#B 1 #T S"] | None = None
    bias: Float[Tensor, "#B #H T S"] | None = None
    alive: Bool[Tensor, "#B 1 #T 1"] | None = None
    _additives: dict[tuple[int, int, torch.dtype, torch.device, bool], Tensor | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def past(cls) -> "Mask":
        """Return a mask for causal attention (Vaswani et al. 2017, section 3.2.3)."""
        return cls(causal=True)

    @classmethod
    def segments(cls, segment_ids: Int[Tensor, "B T"]) -> "Mask":
        """Return a mask for self-attention within documents; padding (segment 0) attends to padding."""
        return cls(allowed=_same(segment_ids, segment_ids))

    @classmethod
    def continued(
        cls,
        segment_ids: Int[Tensor, "B T"],
        all_segment_ids: Int[Tensor, "B S"],
        *,
        one_segment: bool = False,
    ) -> "Mask":
        """Return a mask for causal self-attention of the last T of S tokens, the others being in a cache.

        With `one_segment`, all tokens are known to be of the same segment: then neither a whole prompt nor a
        single token needs a tensor.
        """
        n_new, n_all = segment_ids.shape[1], all_segment_ids.shape[1]
        if one_segment and n_new == n_all:
            return cls.past()
        if one_segment and n_new == 1:
            return cls()
        past = torch.ones(n_new, n_all, dtype=torch.bool, device=segment_ids.device).tril(n_all - n_new)
        return cls(allowed=_same(segment_ids, all_segment_ids) & past)

    @classmethod
    def memory(cls, memory_segment_ids: Int[Tensor, "B S"]) -> "Mask":
        """Return a mask for cross-attention to a memory without its padding (segment 0)."""
        return cls._with_blind_rows((memory_segment_ids != 0)[:, None, None, :])

    @classmethod
    def across(cls, segment_ids: Int[Tensor, "B T"], memory_segment_ids: Int[Tensor, "B S"]) -> "Mask":
        """Return a mask for cross-attention within the same document; padding attends to nothing."""
        real = (memory_segment_ids != 0)[:, None, None, :]
        return cls._with_blind_rows(_same(segment_ids, memory_segment_ids) & real)

    @classmethod
    def _with_blind_rows(cls, allowed: Bool[Tensor, "B 1 #T S"]) -> "Mask":
        """Let queries without keys attend to all keys and zero their outputs later, to avoid NaN."""
        alive = allowed.any(dim=-1, keepdim=True)
        return cls(allowed=allowed | ~alive, alive=alive)

    def __and__(self, other: "Mask") -> "Mask":
        """Return the intersection of two masks for self-attention."""
        if any(part is not None for part in (self.bias, other.bias, self.alive, other.alive)):
            raise ArgumentError(
                "a mask with a bias or for cross-attention cannot be combined",
                "two masks for self-attention without bias",
                "combine the masks before adding the bias",
            )
        causal = self.causal or other.causal
        if self.allowed is None and other.allowed is None:
            return Mask(causal=causal)
        allowed = _joined(self.allowed, other.allowed)
        return Mask(causal=causal, allowed=allowed.tril() if causal else allowed)

    def with_bias(self, bias: Float[Tensor, "#B H T S"] | None) -> "Mask":
        """Return this mask with `bias` added to the scores (ALiBi)."""
        if bias is None:
            return self
        allowed = self.allowed
        if allowed is None and self.causal:
            allowed = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril()[None, None]
        if allowed is not None:
            bias = bias.masked_fill(~allowed, float("-inf"))
        return Mask(causal=self.causal, bias=bias, alive=self.alive)

    def additive(self, n_queries: int, n_keys: int, like: Tensor) -> Float[Tensor, "#B #H T S"] | None:
        """Return the tensor to add to scores, with the type of `like`; None if there is nothing to mask.

        All layers of a forward pass share it, unless it is computed from a learned bias.
        """
        is_learned = self.bias is not None and self.bias.requires_grad
        if is_learned or torch.compiler.is_compiling():
            return self._new_additive(n_queries, n_keys, like)
        key = (n_queries, n_keys, like.dtype, like.device, torch.is_inference_mode_enabled())
        if key not in self._additives:
            self._additives[key] = self._new_additive(n_queries, n_keys, like)
        return self._additives[key]

    def _new_additive(self, n_queries: int, n_keys: int, like: Tensor) -> Float[Tensor, "#B #H T S"] | None:
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
