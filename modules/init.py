"""The first values of all weights, as tables of (name of the tensor, law); the first pattern that fits holds.

default (ours: every matrix small by its width, every sub-layer silent at first)
    *norm.weight                         1
    *.bias                               0
    *.out_proj.weight *.down_proj.weight 0
    *.weight                             normal, sqrt(2 / (5 * fan_in))
  Sources: Nguyen and Salazar 2019, "Transformers without Tears", section 2.2 (small init);
  Zhang et al. 2019, "Fixup Initialization", section 3 (zero output projections).

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
        ("*.out_proj.weight", _zeros),
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
        ValueError: for a tensor that no line of the table fits.
    """
    n_layers = max((len(m) for m in model.modules() if isinstance(m, nn.ModuleList)), default=1)
    for name, weight in sorted(model.named_parameters()):
        _law_of(name, law)(weight, n_layers)


def _law_of(name: str, law: LawName) -> Law:
    for pattern, rule in LAWS[law]:
        if fnmatchcase(name, pattern):
            return rule
    raise ValueError(
        f"no line of the law '{law}' fits tensor '{name}'; expected one; add it to modules/init.py"
    )
