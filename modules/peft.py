"""LoRA: a frozen matrix is adapted by a trainable product of two thin matrices.

A linear layer y = W x + b becomes y = W x + b + alpha / rank * B A x, where only A (rank x in) and B (out x
rank) are trained. B is 0 at first, so that training starts from the pretrained model. At the end the product
can be added to W, which removes its cost.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1, eq. 3.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from modules.dropout import Dropout
from modules.errors import ArgumentError
from modules.meta import on_meta_device


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """The options of an adapter.

    Args:
        rank: the rank of the products; an adapted layer gets rank * (in + out) weights.
        alpha: the product is multiplied by alpha / rank, so that the size of a step depends little on the
            rank.
        dropout: dropout of the input of A, in training.
        targets: names of linear layers, such as q_proj; layers whose names end in one of these are adapted.

    Raises:
        ArgumentError: a value is outside its range.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] | list[str] = ("q_proj", "k_proj", "v_proj", "out_proj")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ArgumentError(f"peft.rank is {self.rank}", "at least 1", "use 8")
        if not 0 < self.alpha < math.inf:
            raise ArgumentError(f"peft.alpha is {self.alpha}", "a number above 0", "use twice the rank")
        if not 0 <= self.dropout < 1:
            raise ArgumentError(f"peft.dropout is {self.dropout}", "from 0 to less than 1", "use 0.1")
        if not self.targets:
            raise ArgumentError("peft.targets is empty", "names of linear layers", "use [q_proj, v_proj]")

    def layers(self, model: nn.Module) -> dict[str, nn.Linear]:
        """Return the layers to adapt, by name.

        Raises:
            ArgumentError: a target matches no layer, or the rank exceeds that of a layer's matrix.
        """
        linear = {name: each for name, each in model.named_modules() if isinstance(each, nn.Linear)}
        for target in self.targets:
            if not any(_is_named(name, target) for name in linear):
                known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear))
                raise ArgumentError(
                    f"peft.targets: no linear layer is named {target}",
                    f"names among {known}",
                    "choose among these names",
                )
        adapted = {
            name: each
            for name, each in linear.items()
            if any(_is_named(name, target) for target in self.targets)
        }
        name, least = min(
            ((name, min(each.weight.shape)) for name, each in adapted.items()), key=lambda pair: pair[1]
        )
        if self.rank > least:
            raise ArgumentError(
                f"peft.rank is {self.rank}",
                f"at most {least}, the rank of the matrix {name}",
                "use 8, or leave this layer out of peft.targets",
            )
        return adapted


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


class LoRALinear(nn.Linear):
    """A linear layer with frozen weights and a trainable product of low rank.

    It has the tensors of the original layer under their names, and `lora_A` (rank, in) and `lora_B` (out,
    rank).
    """

    def __init__(self, base: nn.Linear, options: LoRA) -> None:
        with on_meta_device():
            super().__init__(base.in_features, base.out_features, bias=base.bias is not None)
        self.weight, self.bias = base.weight, base.bias
        self.scale = options.alpha / options.rank
        self.lora_dropout = Dropout(options.dropout)
        self.lora_A = nn.Parameter(base.weight.new_empty(options.rank, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, options.rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # the initialization of nn.Linear

    def forward(self, x: Float[Tensor, "*N in"]) -> Float[Tensor, "*N out"]:
        """Return W x + b + scale * B A dropout(x)."""
        product = F.linear(F.linear(self.lora_dropout(x), self.lora_A), self.lora_B)
        return super().forward(x) + self.scale * product

    def delta(self) -> Float[Tensor, "out in"]:
        """Return the scaled product, to be added to the weight."""
        return self.scale * (self.lora_B @ self.lora_A)


def add_adapter(model: nn.Module, options: LoRA) -> list[str]:
    """Freeze all weights of `model` and add adapters to some of its layers; return the names of these layers.

    Raises:
        ArgumentError: a target matches no linear layer.
    """
    layers = options.layers(model)
    model.requires_grad_(False)
    for name, layer in layers.items():
        _replace(model, name, LoRALinear(layer, options))
    return list(layers)


@torch.no_grad()
def merge_adapter(model: nn.Module) -> None:
    """Add the adapters' products to the weights, and replace adapted layers by plain linear layers."""
    for name, layer in list(_adapted(model)):
        with on_meta_device():
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        plain.weight, plain.bias = nn.Parameter(layer.weight + layer.delta()), layer.bias
        _replace(model, name, plain.train(layer.training))
    model.requires_grad_(True)


def _adapted(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    return ((name, each) for name, each in model.named_modules() if isinstance(each, LoRALinear))


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
