"""The first values of all weights, as tables of (name of the tensor, law); the first pattern that fits holds.

default (ours: every matrix small by its width; attention copies what it looks at, feed-forward is silent)
    *norm.weight                         1
    *.bias                               0
    *.out_proj.weight                    the transpose of its v_proj.weight, such that both together halve
    *.down_proj.weight                   0
    *.weight                             normal, sqrt(2 / (5 * fan_in))
  Sources: Nguyen and Salazar 2019, "Transformers without Tears", section 2.2 (small init);
  Zhang et al. 2019, "Fixup Initialization", section 3 (zero output projections of the feed-forward);
  Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers", section 3 (values and output
  projection near a multiple of the identity; here a positive one: with it a small model repeats what was
  named before after a hundred steps, and without it not after two thousand: docs/log.md).

gpt2
    *norm.weight                         1
    *.bias                               0
    *.out_proj.weight *.down_proj.weight normal, 0.02 / sqrt(2 * n_layers)
    *.weight                             normal, 0.02
  Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.

xavier (the tutorial's)
    *norm.weight                         1
    *.bias                               0
    *embedding.weight                    normal, 1 / sqrt(d_model)
    *.weight                             uniform, +-sqrt(6 / (fan_in + fan_out))
  Sources: Glorot and Bengio 2010, equation 16; the embedding's so that times sqrt(d_model) it has size 1.

The fan of an embedding is its width.
"""

import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from modules.attention import MultiHeadAttention
from modules.errors import ArgumentError

#: How much of what it looks at attention passes on at first, under the default law.
COPIED = 0.5

LawName = Literal["default", "gpt2", "xavier"]
Law = Callable[[Tensor, int], None]


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


_SCALARS: tuple[tuple[str, Law], ...] = (("*norm.weight", _ones), ("*bias", _zeros))
LAWS: dict[LawName, tuple[tuple[str, Law], ...]] = {
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
def initialize(model: nn.Module, law: LawName = "default") -> None:
    """Give all weights of `model` their first values, in the order of their names, from torch's random state.

    Raises:
        ArgumentError: for a tensor that no line of the table fits.
    """
    n_layers = max((len(m) for m in model.modules() if isinstance(m, nn.ModuleList)), default=1)
    for name, weight in sorted(model.named_parameters()):
        _law_of(name, law)(weight, n_layers)
    if law == "default":
        for module in model.modules():
            if isinstance(module, MultiHeadAttention):
                _copy_values(module)


def _copy_values(attention: MultiHeadAttention) -> None:
    """Make the output projection a multiple of the transposed values, of each head those of its group."""
    groups = attention.n_heads // attention.n_kv_heads
    heads = attention.v_proj.weight.view(attention.n_kv_heads, attention.head_size, -1)
    values = heads.repeat_interleave(groups, dim=0).flatten(0, 1)
    attention.out_proj.weight.copy_(COPIED * values.T / values.square().sum(dim=1).mean())


def _law_of(name: str, law: LawName) -> Law:
    for pattern, rule in LAWS[law]:
        if fnmatchcase(name, pattern):
            return rule
    raise ArgumentError(
        f"no line of the law '{law}' fits tensor '{name}'", "one", "add it to modules/init.py"
    )
