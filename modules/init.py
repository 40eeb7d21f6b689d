"""Init schemes: tables of (pattern, init rule); the first pattern that matches a parameter's name applies.

default (matrices scaled by their width; attention starts as a copy, the feed-forward network at zero)
    *norm.weight                         1 (q_norm of a decoder: see below)
    *.bias                               0 (queries and keys of a decoder: see below)
    *.out_proj.weight                    the transpose of v_proj.weight, scaled: their product is about 0.5
    *.down_proj.weight                   0
    *.weight                             normal, sqrt(2 / (5 * fan_in))
  A Decoder with rotary positions, QK-norm and biases of queries and keys starts with heads that attend to
  previous tokens: biases make them prefer a distance, and the gain of q_norm sharpens the preference.
  Training finds such heads by itself, but late; they are what a model needs to continue a repeated sequence
  (Olsson et al. 2022, "In-context Learning and Induction Heads"). docs/log.md has what they gain.
  Sources: Nguyen and Salazar 2019, "Transformers without Tears", section 2.2 (small init);
  Zhang et al. 2019, "Fixup Initialization", section 3 (zero output projections of the feed-forward);
  Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers", section 3 (the product of
  value and output projection is close to a multiple of the identity; here the multiple is positive: with
  it, a small model learns to repeat earlier names within 100 steps, otherwise not within 2,000: docs/log.md).

gpt2
    *norm.weight                         1
    *.bias                               0
    *.out_proj.weight *.down_proj.weight normal, 0.02 / sqrt(2 * n_layers)
    *.weight                             normal, 0.02
  Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.

xavier (as in the tutorial architecture)
    *norm.weight                         1
    *.bias                               0
    *embedding.weight                    normal, 1 / sqrt(d_model)
    *.weight                             uniform, +-sqrt(6 / (fan_in + fan_out))
  Source: Glorot and Bengio 2010, equation 16. The embedding has unit variance after scaling by sqrt(d_model).

The fan_in of an embedding is its width.
"""

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from modules.attention import MultiHeadAttention
from modules.errors import ArgumentError
from modules.norms import RMSNorm
from modules.positions import Rotary
from modules.transformer import Decoder

#: The scale of the values that attention initially passes on, in the default scheme.
COPIED = 0.5
#: How far back the first heads of the first layer and of the other layers attend, in the default scheme.
FIRST_DISTANCES, OTHER_DISTANCES = (1, 2), (1,)
#: The norm of their biases, in norms of a projected input, and the highest score that normalized queries and
#: keys can have. With 32 features, a head has two thirds of its attention on its token of 128 at first, and
#: most of the rest on the tokens around it.
BIAS_NORM, HIGHEST_SCORE = 3.0, 2.0 * math.sqrt(32)

Scheme = Literal["default", "gpt2", "xavier"]
InitRule = Callable[[Tensor, int], None]


def _ones(weight: Tensor, n_layers: int) -> None:
    nn.init.ones_(weight)


def _zeros(weight: Tensor, n_layers: int) -> None:
    nn.init.zeros_(weight)


def _small(weight: Tensor, n_layers: int) -> None:
    nn.init.normal_(weight, std=math.sqrt(2.0 / (5.0 * weight.shape[-1])))


def _gpt2(weight: Tensor, n_layers: int) -> None:
    nn.init.normal_(weight, std=0.02)


def _gpt2_output(weight: Tensor, n_layers: int) -> None:
    nn.init.normal_(weight, std=0.02 / math.sqrt(2.0 * n_layers))


def _unit_rows(weight: Tensor, n_layers: int) -> None:
    nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)


def _xavier(weight: Tensor, n_layers: int) -> None:
    nn.init.xavier_uniform_(weight)


_SCALARS: tuple[tuple[str, InitRule], ...] = (("*norm.weight", _ones), ("*bias", _zeros))
INIT_SCHEMES: dict[Scheme, tuple[tuple[str, InitRule], ...]] = {
    "default": (
        *_SCALARS,
        ("*.out_proj.weight", _zeros),  # then `_copy_values`
        ("*.down_proj.weight", _zeros),
        ("*weight", _small),
    ),
    "gpt2": (
        *_SCALARS,
        ("*.out_proj.weight", _gpt2_output),
        ("*.down_proj.weight", _gpt2_output),
        ("*weight", _gpt2),
    ),
    "xavier": (*_SCALARS, ("*embedding.weight", _unit_rows), ("*weight", _xavier)),
}


@torch.no_grad()
def initialize(model: nn.Module, scheme: Scheme = "default") -> None:
    """Initialize all parameters of `model` in the order of their names, using torch's global random state.

    On the meta device, where weights have no values, only the names are checked.

    Args:
        scheme: the table of init rules.

    Raises:
        ArgumentError: the name of a parameter matches no pattern of the scheme.
    """
    n_layers = max((len(m) for m in model.modules() if isinstance(m, nn.ModuleList)), default=1)
    rules = [(_rule_of(name, scheme), weight) for name, weight in sorted(model.named_parameters())]
    if all(weight.is_meta for _, weight in rules):
        return
    for rule, weight in rules:
        rule(weight, n_layers)
    if scheme == "default":
        for module in model.modules():
            if isinstance(module, MultiHeadAttention):
                _copy_values(module)
            elif isinstance(module, Decoder) and isinstance(module.position, Rotary):
                layers = [part for part in module.modules() if isinstance(part, MultiHeadAttention)]
                for i, attention in enumerate(layers):
                    distances = OTHER_DISTANCES if i else FIRST_DISTANCES
                    _attend_back(attention, distances, module.position)


def _copy_values(attention: MultiHeadAttention) -> None:
    """Set the output projection to a multiple of the transposed value projection, head by head.

    Heads that share keys and values also share these rows.
    """
    groups = attention.n_heads // attention.n_kv_heads
    heads = attention.v_proj.weight.view(attention.n_kv_heads, attention.head_size, -1)
    values = heads.repeat_interleave(groups, dim=0).flatten(0, 1)
    attention.out_proj.weight.copy_(COPIED * values.T / values.square().sum(dim=1).mean())


def _attend_back(attention: MultiHeadAttention, distances: Sequence[int], position: Rotary) -> None:
    """Let the first heads attend to tokens at these distances, by biases of queries and keys.

    Rotated, the product of both is a sum of cos((distance - d) * frequency), which is largest at distance d.
    The highest quarter of the frequencies distinguishes between neighbours.
    """
    norm, q_bias, k_bias = attention.q_norm, attention.q_proj.bias, attention.k_proj.bias
    distances = distances[: attention.n_heads - 1]  # at least one head starts without a preference
    if q_bias is None or not isinstance(norm, RMSNorm) or not distances:
        return
    size = attention.head_size
    n_used = math.ceil(size / 8)
    key = torch.zeros(1, 1, 1, size, device=q_bias.device)
    key[..., :n_used] = BIAS_NORM * math.sqrt(0.4 * size / n_used)  # 0.4: the variance that `_small` gives
    back = -torch.tensor(distances, device=key.device).unsqueeze(0)
    queries = position.rotation(back, size).apply(key.expand(1, len(distances), 1, size))
    groups = attention.n_heads // attention.n_kv_heads
    q_bias[: len(distances) * size] = queries.flatten()
    k_bias.view(attention.n_kv_heads, size)[: math.ceil(len(distances) / groups)] = key.flatten()
    norm.weight.fill_(HIGHEST_SCORE / math.sqrt(size))


def _rule_of(name: str, scheme: Scheme) -> InitRule:
    for pattern, rule in INIT_SCHEMES[scheme]:
        if fnmatchcase(name, pattern):
            return rule
    raise ArgumentError(
        f"no rule of the init scheme '{scheme}' matches parameter '{name}'",
        "a rule for every parameter",
        "add one to INIT_SCHEMES in modules/init.py",
    )
