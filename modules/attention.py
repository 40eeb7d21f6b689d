"""Multi-head attention over the input itself or over a memory, with masks and positions passed as values."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from modules.cache import LayerCache
from modules.dropout import drop
from modules.errors import ArgumentError
from modules.masks import Mask
from modules.norms import RMSNorm
from modules.positions import Rotation

# On CPU, torch's fused kernel has a slow backward pass in bfloat16: matrix products are 2 to 4 times as fast
# up to this number of scores (B * H * T * S), and slower above.
MAX_SCORES_OF_PRODUCTS = 1 << 23

_is_as_on_gpu = ContextVar("is_as_on_gpu", default=False)


class MultiHeadAttention(nn.Module):
    """Multi-head attention over the input itself or over a memory, optionally with grouped keys and values.

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
        d_head: int | None = None,
        qk_norm: Callable[[], nn.Module] | None = None,
        bias: bool = False,
        qkv_bias: bool | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        check_heads(d_model, n_heads, n_kv_heads, d_head)
        self.head_size = d_model // n_heads if d_head is None else d_head
        self.dropout = dropout
        d_q, d_kv = n_heads * self.head_size, self.n_kv_heads * self.head_size
        in_bias = bias if qkv_bias is None else qkv_bias
        self.q_proj = nn.Linear(d_model, d_q, bias=in_bias)
        self.k_proj = nn.Linear(d_model, d_kv, bias=in_bias)
        self.v_proj = nn.Linear(d_model, d_kv, bias=in_bias)
        self.out_proj = nn.Linear(d_q, d_model, bias=bias)
        self.q_norm = nn.Identity() if qk_norm is None else qk_norm()
        self.k_norm = nn.Identity() if qk_norm is None else qk_norm()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"] | None = None,
        *,
        mask: Mask,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Attend to `memory`, or without one to `x` itself; with a cache, also to the cached keys."""
        if cache is not None and memory is not None and cache.length:
            q, (k, v) = self._heads(self.q_proj(x), self.q_norm, rotation), cache.stored()
        else:
            q, k, v = self._queries_keys_values(x, memory, rotation)
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
        """Return the attention weights that `forward` uses, computed by a slower path for inspection."""
        q = self._heads(self.q_proj(x), self.q_norm, rotation)
        if cache is not None and cache.length:
            k, _ = cache.stored()
        else:
            k = self._heads(self.k_proj(x if memory is None else memory), self.k_norm, rotation)
        k = k.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)
        scores = q.float() @ k.float().transpose(-2, -1) * self.head_size**-0.5
        added = mask.additive(scores.shape[-2], scores.shape[-1], scores)
        weights: Tensor = (scores if added is None else scores + added).softmax(dim=-1)
        return weights if mask.alive is None else weights * mask.alive

    def _queries_keys_values(
        self, x: Float[Tensor, "B T D"], memory: Float[Tensor, "B S D"] | None, rotation: Rotation | None
    ) -> tuple[Float[Tensor, "B H T K"], Float[Tensor, "B Hkv S K"], Float[Tensor, "B Hkv S K"]]:
        layers = (self.q_proj, self.k_proj, self.v_proj)
        if memory is None and _prefers_one_product(x, layers):
            q, k, v = _in_one_product(x, layers)
        else:
            source = x if memory is None else memory
            q, k, v = self.q_proj(x), self.k_proj(source), self.v_proj(source)
        values = torch.unflatten(v, -1, (self.n_kv_heads, self.head_size)).transpose(1, 2)
        return self._heads(q, self.q_norm, rotation), self._heads(k, self.k_norm, rotation), values

    def _heads(
        self, x: Float[Tensor, "B T HK"], norm: nn.Module, rotation: Rotation | None
    ) -> Float[Tensor, "B H T K"]:
        """Divide into heads, which are normalized and rotated: at once if the norm is an RMSNorm."""
        heads: Tensor = torch.unflatten(x, -1, (-1, self.head_size))
        if isinstance(norm, RMSNorm):
            heads = norm(heads, rotation)
        else:
            heads = norm(heads) if rotation is None else rotation.apply(norm(heads))
        return heads.transpose(1, 2)


def _prefers_one_product(x: Tensor, layers: Sequence[nn.Module]) -> bool:
    """Return whether one product is faster than one for each layer: on a CPU, training in bfloat16.

    A step is then 4 to 9 % faster, because its operations are short. In float32 nothing is gained. Layers of
    another class, or with hooks, are called.
    """
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and (torch.compiler.is_compiling() or not _is_as_on_gpu.get())
        and all(type(layer) is nn.Linear and not _has_hooks(layer) for layer in layers)
    )


def _has_hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _in_one_product(x: Float[Tensor, "B T D"], layers: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
    """Return the outputs of linear layers with the same input, which all have biases or none."""
    weight = torch.cat(tuple(layer.weight for layer in layers))
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    product = F.linear(x, weight, torch.cat(biases) if biases else None)
    return torch.split(product, [layer.out_features for layer in layers], dim=-1)


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B Hkv S K"],
    v: Float[Tensor, "B Hkv S K"],
    mask: Mask,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "B H T K"]:
    """Return softmax(Q K^T / sqrt(d_k)) V, computed by the kernel that is fastest on the device.

    Source: Vaswani et al. 2017, section 3.2.1, equation 1.
    """
    n_scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    if _prefers_products(q, n_scores, dropout):
        seen = _attend_by_products(q, k, v, mask, dropout)
    elif _fits_half(q, k, v, mask, dropout):
        seen = _attend_to_half(q, k, v, mask)
    else:
        seen = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask.allowed if mask.bias is None else mask.bias.to(q.dtype),
            dropout_p=dropout,
            is_causal=mask.causal and mask.allowed is None and mask.bias is None,
            enable_gqa=k.shape[1] != q.shape[1],
        )
    return seen if mask.alive is None else seen * mask.alive


def _prefers_products(q: Tensor, n_scores: int, dropout: float) -> bool:
    """Return whether matrix products are faster than torch's kernel for the CPU.

    With dropout, that kernel stores all scores too, and its dropout is slower; compiled, it is not.
    """
    is_eager_dropout = dropout > 0 and not torch.compiler.is_compiling()
    if q.device.type != "cpu" or (not torch.compiler.is_compiling() and _is_as_on_gpu.get()):
        return False
    return is_eager_dropout or (q.dtype == torch.bfloat16 and n_scores <= MAX_SCORES_OF_PRODUCTS)


def _fits_half(q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float) -> bool:
    """Return whether the mask is causal with a tensor, and the CPU's own kernel supports the inputs."""
    has_tensor = mask.allowed is not None or (mask.bias is not None and not mask.bias.requires_grad)
    return (
        mask.causal
        and has_tensor
        and q.device.type == "cpu"
        and q.shape == k.shape == v.shape
        and q.dtype == k.dtype == v.dtype
        and not dropout
        and not torch.compiler.is_compiling()
    )


def _attend_to_half(
    q: Float[Tensor, "B H T K"], k: Float[Tensor, "B H T K"], v: Float[Tensor, "B H T K"], mask: Mask
) -> Float[Tensor, "B H T K"]:
    """Attend by torch's CPU kernel, which skips the scores of later keys and also adds a mask tensor.

    `F.scaled_dot_product_attention` supports only one of these: with a tensor, it computes all scores.
    """
    seen: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, True, attn_mask=mask.additive(q.shape[2], k.shape[2], q)
    )[0]
    return seen


def _attend_by_products(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B Hkv S K"],
    v: Float[Tensor, "B Hkv S K"],
    mask: Mask,
    dropout: float,
) -> Float[Tensor, "B H T K"]:
    """Compute equation 1 step by step; the softmax, computed in float32, has the type of the inputs."""
    if k.shape[1] != q.shape[1]:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # Q K^T / sqrt(d_k)
    added = mask.additive(q.shape[2], k.shape[2], scores)
    if added is not None:
        scores = scores + added
    # Given bfloat16, the kernel computes in float32 too, but its backward pass reads half as much memory.
    weights = torch.softmax(scores, dim=-1)
    if dropout:
        weights = drop(weights, dropout)
    seen: Tensor = weights @ v
    return seen


@contextmanager
def attention_as_on_gpu() -> Iterator[None]:
    """Use torch's fused kernels and a product for each layer, to measure what a GPU would keep in memory."""
    before = _is_as_on_gpu.set(True)
    try:
        yield
    finally:
        _is_as_on_gpu.reset(before)


def check_heads(d_model: int, n_heads: int, n_kv_heads: int | None, d_head: int | None = None) -> None:
    """Check that the heads divide the width, unless `d_head` is given.

    Raises:
        ArgumentError: the sizes do not fit together.
    """
    if d_head is not None and d_head < 1:
        raise ArgumentError(f"d_head is {d_head}", "at least 1", "leave it out for d_model / n_heads")
    if n_heads < 1 or d_model < 1 or (d_head is None and d_model % n_heads):
        raise ArgumentError(
            f"d_model {d_model} is not divisible by n_heads {n_heads}",
            "heads of equal size",
            "choose n_heads among the divisors of d_model",
        )
    if n_kv_heads is not None and (n_kv_heads < 1 or n_heads % n_kv_heads):
        raise ArgumentError(
            f"n_heads {n_heads} is not divisible by n_kv_heads {n_kv_heads}",
            "groups of equal size",
            "choose n_kv_heads among the divisors of n_heads",
        )
