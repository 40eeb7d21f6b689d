"""A layer of a transformer, and its configuration: norms, activation, heads."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from modules.attention import MultiHeadAttention, check_heads
from modules.cache import LayerCache
from modules.dropout import Dropout
from modules.errors import ArgumentError
from modules.masks import Mask
from modules.norms import RMSNorm
from modules.positions import Rotation

Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "relu2", "swiglu", "geglu"]


@dataclass(frozen=True)
class LayerSpec:
    """The configuration shared by all layers of a transformer; the defaults follow current best practice.

    Args:
        d_model: the width of the hidden states.
        n_heads: the number of query heads.
        n_kv_heads: the number of key and value heads; None: n_heads.
        d_head: the width of a head; None: d_model / n_heads.
        d_ff: the inner width of the feed-forward network; None: 4 * d_model, and for gated networks 8/3 *
            d_model rounded up to a multiple of 32, which gives as many weights.
        norm: LayerNorm or RMSNorm.
        norm_eps: added to the variance or mean square; None: 1e-5 for LayerNorm, 1e-6 for RMSNorm.
        norm_first: pre-norm layers; otherwise post-norm.
        embedding_norm: a norm after the sum of embeddings and positions, as in BERT and BART.
        activation: the activation of the feed-forward network.
        qk_norm: RMSNorm on the queries and keys of each head.
        dropout: dropout of attention weights, inner activations and the output of each sub-layer.
        bias: biases in all linear layers and in LayerNorm.
        qkv_bias: biases of queries, keys and values; None: as `bias`.

    Raises:
        ArgumentError: the sizes do not fit together.
    """

    d_model: int
    _: KW_ONLY
    n_heads: int
    n_kv_heads: int | None = None
    d_head: int | None = None
    d_ff: int | None = None
    norm: Literal["layer", "rms"] = "rms"
    norm_eps: float | None = None
    norm_first: bool = True
    embedding_norm: bool = False
    activation: Activation = "relu2"
    qk_norm: bool = True
    dropout: float = 0.0
    bias: bool = False
    qkv_bias: bool | None = None

    def __post_init__(self) -> None:
        check_heads(self.d_model, self.n_heads, self.n_kv_heads, self.d_head)
        if self.norm_eps is not None and not self.norm_eps > 0:
            raise ArgumentError(f"norm_eps is {self.norm_eps}", "more than 0", "use 1e-6 or leave it out")
        if self.d_ff is not None and self.d_ff < 1:
            raise ArgumentError(f"d_ff is {self.d_ff}", "at least 1", "leave it out for 4 * d_model")
        if not 0.0 <= self.dropout < 1.0:
            raise ArgumentError(f"dropout is {self.dropout}", "0 <= dropout < 1", "try 0.1")

    @property
    def ffn_size(self) -> int:
        """The inner width of the feed-forward network."""
        if self.d_ff is not None:
            return self.d_ff
        return math.ceil(self.d_model * 8 / 3 / 32) * 32 if self.activation in _GATED else 4 * self.d_model

    @property
    def head_size(self) -> int:
        """The width of one head."""
        return self.d_model // self.n_heads if self.d_head is None else self.d_head

    @property
    def epsilon(self) -> float:
        """The value added to a variance or mean square before dividing by it."""
        if self.norm_eps is not None:
            return self.norm_eps
        return 1e-6 if self.norm == "rms" else 1e-5

    def build(self, *, cross: bool = False) -> "Layer":
        """Build a layer, with cross-attention to a memory if `cross`."""
        return Layer(
            self.build_attention(),
            self.build_ffn(),
            self.build_attention() if cross else None,
            norm=self.build_norm,
            norm_first=self.norm_first,
            dropout=self.dropout,
        )

    def build_attention(self) -> MultiHeadAttention:
        """Build an attention module."""
        return MultiHeadAttention(
            self.d_model,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            d_head=self.d_head,
            qk_norm=self.build_qk_norm if self.qk_norm else None,
            bias=self.bias,
            qkv_bias=self.qkv_bias,
            dropout=self.dropout,
        )

    def build_ffn(self) -> "FeedForward":
        """Build a feed-forward network."""
        return FeedForward(
            self.d_model,
            d_ff=self.ffn_size,
            activation=self.activation,
            bias=self.bias,
            dropout=self.dropout,
        )

    def build_norm(self) -> nn.Module:
        """Build a norm of the width of the model."""
        if self.norm == "rms":
            return RMSNorm(self.d_model, eps=self.epsilon)
        return nn.LayerNorm(self.d_model, eps=self.epsilon, bias=self.bias)

    def build_qk_norm(self) -> nn.Module:
        """Build an RMSNorm of the width of a head."""
        return RMSNorm(self.head_size, eps=1e-6 if self.norm_eps is None else self.norm_eps)


class FeedForward(nn.Module):
    """A feed-forward network applied to each position separately.

    Sources: relu: FFN(x) = max(0, x W1 + b1) W2 + b2 (Vaswani et al. 2017, section 3.3, equation 2). gelu:
    Hendrycks and Gimpel 2016, section 2; gelu_tanh is its approximation. silu: Elfwing et al. 2017,
    section 2. relu2: max(0, x W1)^2 W2 (So et al. 2021, "Primer", section 3). swiglu: (silu(x Wg) * x W1) W2,
    geglu: (gelu_tanh(x Wg) * x W1) W2 (Shazeer 2020, "GLU Variants Improve Transformer", equation 6).
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_ff: int,
        activation: Activation = "relu2",
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.up_proj = nn.Linear(d_model, d_ff, bias=bias)
        self.gate_proj = nn.Linear(d_model, d_ff, bias=bias) if activation in _GATED else None
        self.down_proj = nn.Linear(d_ff, d_model, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Project to the inner width, apply the activation, and project back."""
        up = self.up_proj(x)  # x W1 + b1
        inner = self.activation(up) if self.gate_proj is None else self.activation(self.gate_proj(x)) * up
        out: Tensor = self.down_proj(self.dropout(inner))  # ... W2 + b2
        return out


class Layer(nn.Module):
    """Self-attention, optional cross-attention to a memory, feed-forward, each with a norm and a residual.

    norm_first: x + f(norm(x)) (Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture",
    figure 1b); else norm(x + f(x)) (Vaswani et al. 2017, section 3.1: LayerNorm(x + Sublayer(x))).
    """

    def __init__(
        self,
        self_attn: MultiHeadAttention,
        ffn: FeedForward,
        cross_attn: MultiHeadAttention | None = None,
        *,
        norm: Callable[[], nn.Module],
        norm_first: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attn_norm, self.self_attn = norm(), self_attn
        self.cross_attn_norm = None if cross_attn is None else norm()
        self.cross_attn = cross_attn
        self.ffn_norm, self.ffn = norm(), ffn
        self.dropout = Dropout(dropout)  # section 5.4: on the output of each sub-layer, before the sum

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"] | None = None,
        *,
        mask: Mask,
        memory_mask: Mask | None = None,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
        memory_cache: LayerCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Apply the layer; pass `memory` and its mask only if the layer has cross-attention."""
        x = self._sublayer(
            x, self.self_attn_norm, lambda y: self.self_attn(y, mask=mask, rotation=rotation, cache=cache)
        )
        cross_attn, cross_attn_norm = self.cross_attn, self.cross_attn_norm
        if cross_attn is not None and cross_attn_norm is not None:
            assert memory is not None, "a layer with cross-attention was given no memory"
            seen = Mask() if memory_mask is None else memory_mask
            x = self._sublayer(
                x, cross_attn_norm, lambda y: cross_attn(y, memory, mask=seen, cache=memory_cache)
            )
        return self._sublayer(x, self.ffn_norm, self.ffn)

    def _sublayer(
        self, x: Float[Tensor, "B T D"], norm: nn.Module, f: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "B T D"]:
        if self.norm_first:
            out: Tensor = x + self.dropout(f(norm(x)))
        else:
            out = norm(x + self.dropout(f(x)))  # LayerNorm(x + Sublayer(x))
        return out


class _SquaredReLU(torch.autograd.Function):
    """max(0, x)^2, which keeps only its result for the backward pass, as the product that follows does.

    The root of the result is the rectified input, to within rounding, unless the square underflows. On a CPU
    in float32, the root of a square y is computed as y / sqrt(y), because torch's square root of zeros is
    slow there; a y below the smallest normal number is divided by the root of that number.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        squared = F.relu(x).square_()
        ctx.save_for_backward(squared)
        return squared

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, g: Tensor) -> Tensor:
        (squared,) = ctx.saved_tensors  # type: ignore[attr-defined]
        if squared.device.type == "cpu" and squared.dtype == torch.float32:
            root = squared.clamp_min(torch.finfo(squared.dtype).tiny).rsqrt_().mul_(squared)
        else:
            root = squared.sqrt()
        x_grad: Tensor = root.mul_(g).mul_(2)
        return x_grad


def _relu2(x: Tensor) -> Tensor:
    is_eager = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if is_eager and x.dtype != torch.float16:  # whose small squares are 0
        squared: Tensor = _SquaredReLU.apply(x)  # type: ignore[no-untyped-call]
        return squared
    return F.relu(x).square()


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_GATED = ("swiglu", "geglu")
#: Activation functions by name; a gated network applies it to the gate.
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": F.silu,
    "relu2": _relu2,
    "swiglu": F.silu,
    "geglu": _gelu_tanh,
}
