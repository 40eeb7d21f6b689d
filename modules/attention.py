"""Multi-head attention: self-attention is cross-attention to itself; masks and positions are values."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from modules.masks import Mask
from modules.norms import RMSNorm
from modules.positions import Rotation

# On CPU torch's fused kernel has a slow backward pass in bfloat16: plain products are 2 to 4 times as fast
# while there are few scores (B * H * T * S), and slower beyond.
_PLAIN_SCORES = 1 << 23


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
            ValueError: if there is no room.
        """
        end = self.length + keys.shape[2]
        if end > self.max_tokens:
            raise ValueError(
                f"the cache has room for {self.max_tokens} tokens and {end} were given; expected no more; "
                "make the cache with a larger max_tokens"
            )
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
            self._keys, self._values = self._keys[rows], self._values[rows]


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
            ValueError: if there is no room.
        """
        end = self.length + segment_ids.shape[1]
        if end > self.max_tokens:
            raise ValueError(
                f"the cache has room for {self.max_tokens} tokens and {end} were given; expected no more; "
                "make the cache with a larger max_tokens"
            )
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


class MultiHeadAttention(nn.Module):
    """Attention of H heads over itself or over a memory, with grouped keys and values where asked.

    Source: Vaswani et al. 2017, section 3.2.2: MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O,
    head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V). Grouped heads: Ainslie et al. 2023, "GQA", section 2.2.
    QK-norm: Dehghani et al. 2023, "Scaling Vision Transformers to 22 Billion Parameters", section 2.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        n_kv_heads: int | None = None,
        qk_norm: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        check_heads(d_model, n_heads, n_kv_heads)
        self.head_size = d_model // n_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, self.n_kv_heads * self.head_size, bias=bias)
        self.v_proj = nn.Linear(d_model, self.n_kv_heads * self.head_size, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model, bias=bias)
        self.q_norm = RMSNorm(self.head_size) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_size) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"] | None = None,
        *,
        mask: Mask,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Look at `memory`, or at `x` itself where there is none; with a cache, at what it holds as well."""
        q = self._queries(x, rotation)
        if cache is not None and memory is not None and cache.length:
            k, v = cache.stored()
        else:
            k, v = self._keys_values(x if memory is None else memory, rotation)
            if cache is not None:
                k, v = cache.append(k, v)
        seen = attend(q, k, v, mask, dropout=self.dropout if self.training else 0.0)
        out: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))  # Concat(head_1, ..., head_h) W^O
        return out

    def attention_weights(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"] | None = None,
        *,
        mask: Mask,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B H T S"]:
        """The weights that `forward` used, recomputed slowly from what it was given: for looking."""
        q = self._queries(x, rotation)
        if cache is not None and cache.length:
            k, _ = cache.stored()
        else:
            k, _ = self._keys_values(x if memory is None else memory, rotation)
        k = k.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)
        scores = q.float() @ k.float().transpose(-2, -1) * self.head_size**-0.5
        added = mask.additive(scores.shape[-2], scores.shape[-1], scores)
        weights: Tensor = (scores if added is None else scores + added).softmax(dim=-1)
        return weights if mask.alive is None else weights * mask.alive

    def _queries(self, x: Float[Tensor, "B T D"], rotation: Rotation | None) -> Float[Tensor, "B H T K"]:
        q: Tensor = self.q_norm(self.q_proj(x).unflatten(-1, (self.n_heads, self.head_size))).transpose(1, 2)
        if rotation is not None:
            q = rotation.apply(q)
        return q

    def _keys_values(
        self, x: Float[Tensor, "B S D"], rotation: Rotation | None
    ) -> tuple[Float[Tensor, "B Hkv S K"], Float[Tensor, "B Hkv S K"]]:
        k = self.k_norm(self.k_proj(x).unflatten(-1, (self.n_kv_heads, self.head_size))).transpose(1, 2)
        v = self.v_proj(x).unflatten(-1, (self.n_kv_heads, self.head_size)).transpose(1, 2)
        return (k if rotation is None else rotation.apply(k)), v


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B Hkv S K"],
    v: Float[Tensor, "B Hkv S K"],
    mask: Mask,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "B H T K"]:
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V, by the kernel that is fastest here.

    Source: Vaswani et al. 2017, section 3.2.1, equation 1.
    """
    n_scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and n_scores <= _PLAIN_SCORES:
        seen = _attend_by_products(q, k, v, mask, dropout)
    else:
        seen = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask.allowed if mask.bias is None else mask.bias.to(q.dtype),
            dropout_p=dropout,
            is_causal=mask.causal,
            enable_gqa=k.shape[1] != q.shape[1],
        )
    return seen if mask.alive is None else seen * mask.alive


def _attend_by_products(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B Hkv S K"],
    v: Float[Tensor, "B Hkv S K"],
    mask: Mask,
    dropout: float,
) -> Float[Tensor, "B H T K"]:
    """Equation 1 written out; the softmax is in float32."""
    if k.shape[1] != q.shape[1]:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # Q K^T / sqrt(d_k)
    added = mask.additive(q.shape[2], k.shape[2], scores)
    if added is not None:
        scores = scores + added
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    seen: Tensor = weights @ v
    return seen


def check_heads(d_model: int, n_heads: int, n_kv_heads: int | None) -> None:
    """Refuse heads that do not divide the width.

    Raises:
        ValueError: with the numbers and what to change.
    """
    if n_heads < 1 or d_model < 1 or d_model % n_heads:
        raise ValueError(
            f"d_model {d_model} is not divisible by n_heads {n_heads}; expected heads of equal size; "
            "choose n_heads among the divisors of d_model"
        )
    if n_kv_heads is not None and (n_kv_heads < 1 or n_heads % n_kv_heads):
        raise ValueError(
            f"n_heads {n_heads} is not divisible by n_kv_heads {n_kv_heads}; expected groups of equal size; "
            "choose n_kv_heads among the divisors of n_heads"
        )
