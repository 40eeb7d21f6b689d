"""Optimizers, which divide the parameters into three groups: matrices, embeddings, scalars.

- `matrices`: weights with two or more dimensions. Only they have weight decay: most of them feed a norm,
  which cancels their scale, so growing weights would only lower their effective learning rate.
- `embeddings`: tables of tokens and positions, including a tied head. No decay, because the rows of rare
  tokens would decay between their occurrences.
- `scalars`: gains of norms and biases, everything one-dimensional. No decay, because pulling a gain to 0
  changes the function itself.

Each group has its own learning rate, because the gradients differ: an embedding row is updated only when its
token occurs, a matrix by every token.

With `layer_decay`, each group is divided further by depth (`modules.freezing`), into `matrices/01`,
`matrices/02` and so on. The learning rate at depth d is lr * layer_decay ** (max_depth - d): pretrained
layers change less the closer they are to the input.

Source: Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", section 3.2;
Clark et al. 2020, "ELECTRA", appendix B (0.8 and 0.9).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from modules.errors import ArgumentError
from modules.freezing import depth_of_parameters
from modules.model import Model
from modules.muon import NewtonSchulz, TypedMuon, fastest_newton_schulz

GroupName = Literal["matrices", "embeddings", "scalars"]


def parameter_groups(model: nn.Module) -> dict[GroupName, list[nn.Parameter]]:
    """Return every trainable parameter of `model` in exactly one group, tied ones once; groups may be empty.

    Raises:
        ArgumentError: no parameter is trainable.
    """
    groups: dict[GroupName, list[nn.Parameter]] = {"matrices": [], "embeddings": [], "scalars": []}
    seen: set[nn.Parameter] = set()
    # A tied weight counts as an embedding, hence embeddings come first.
    for module in sorted(model.modules(), key=lambda module: not isinstance(module, nn.Embedding)):
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                groups[_group_name(module, parameter)].append(parameter)
    if not seen:
        raise ArgumentError("no parameter of the model is trainable", "at least one", "unfreeze a part")
    return groups


def _group_name(module: nn.Module, parameter: nn.Parameter) -> GroupName:
    if isinstance(module, nn.Embedding):
        return "embeddings"
    return "matrices" if parameter.ndim >= 2 else "scalars"


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """The learning rate of each group; by default, `lr` determines all three.

    Args:
        lr: the learning rate of the hidden matrices.
        embedding_lr: the learning rate of embeddings and a tied head; None: 12.5 * lr.
        scalar_lr: the learning rate of gains and biases; None: 2.5 * lr.
        layer_decay: the factor of the learning rate from each depth to the one below; None: the same for all.

    Raises:
        ArgumentError: a learning rate is negative, or `layer_decay` is not more than 0 and at most 1.
    """

    lr: float = 0.004
    embedding_lr: float | None = None
    scalar_lr: float | None = None
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "embedding_lr", "scalar_lr"):
            rate = getattr(self, name)
            if rate is not None and rate < 0:
                raise ArgumentError(f"{name} is {rate}", "0 or more", "use 0.001, or leave it out")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ArgumentError(
                f"layer_decay is {self.layer_decay}", "more than 0 and at most 1", "use 0.8, or leave it out"
            )

    @property
    def rates(self) -> dict[GroupName, float]:
        """The learning rate of each group."""
        return {
            "matrices": self.lr,
            "embeddings": 12.5 * self.lr if self.embedding_lr is None else self.embedding_lr,
            "scalars": 2.5 * self.lr if self.scalar_lr is None else self.scalar_lr,
        }

    def build(self, model: nn.Module) -> Optimizer:
        """Return an optimizer for all trainable parameters of `model`; its groups have a `name`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class AdamW(LearningRates):
    """AdamW with decoupled weight decay, by torch's fused kernel (on CPU 3 to 4 times as fast as `foreach`).

    Source: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.

    Args:
        weight_decay: the weight decay of the matrices, multiplied by the learning rate at each step.
        beta1: the decay of the mean of gradients.
        beta2: the decay of the mean of squared gradients.
        eps: added to the square root of that mean.
    """

    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8

    def build(self, model: nn.Module) -> Optimizer:
        """Return an optimizer for all trainable parameters of `model`; its groups have a `name`."""
        split = _Split(model, self)
        return _fused_adamw(
            [
                *split.groups("matrices", weight_decay=self.weight_decay),
                *split.groups("embeddings", weight_decay=0.0),
                *split.groups("scalars", weight_decay=0.0),
            ],
            betas=(self.beta1, self.beta2),
            eps=self.eps,
        )


@dataclass(frozen=True, kw_only=True)
class Muon(LearningRates):
    """Muon for the hidden matrices and AdamW for embeddings and scalars, as one optimizer.

    Muon orthogonalizes the momentum of a matrix (all singular values near 1) by five Newton-Schulz
    iterations. It needs fewer steps than AdamW for the same loss, but each step costs more.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the size of a step,
    0.2 * sqrt(max(rows, columns)) * lr, is that of Liu et al. 2025, "Muon is Scalable for LLM Training",
    section 2.2, equation 4, so that learning rates of AdamW can be used.

    Args:
        weight_decay: the weight decay of the matrices, multiplied by the learning rate at each step.
        momentum: the Nesterov momentum of Muon.
        beta1: AdamW's decay of the mean of gradients.
        beta2: AdamW's decay of the mean of squared gradients.
        newton_schulz: the data type of the iterations; auto: bf16 if the hardware is fast in it, else fp32.
        update_every: the steps from one update of a matrix to the next, which, with its weight decay, is then
            this many times as large; docs/log.md has the loss with 1, 2, 4 and 8. auto: for commands, which
            know the tokens of a step (`modules.muon.fitting_update_every`).

    Raises:
        ArgumentError: `update_every` is less than 1.
    """

    weight_decay: float = 0.1
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    newton_schulz: Literal["auto"] | NewtonSchulz = "auto"
    update_every: Literal["auto"] | int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.update_every != "auto" and self.update_every < 1:
            raise ArgumentError(f"update_every is {self.update_every}", "1 or more", "use 1 for every step")

    def build(self, model: nn.Module) -> Optimizer:
        """Return an optimizer for all trainable parameters of `model`; its groups have a `name`.

        Raises:
            ArgumentError: `update_every` is auto.
        """
        if self.update_every == "auto":
            raise ArgumentError("update_every is auto", "a number of steps", "give 1, 2 or 4")
        split = _Split(model, self)
        device = next(model.parameters()).device
        muon = TypedMuon(
            split.groups("matrices"),
            newton_schulz=fastest_newton_schulz(device)
            if self.newton_schulz == "auto"
            else self.newton_schulz,
            update_every=self.update_every,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
        )
        adamw = _fused_adamw(
            [
                *split.groups("embeddings"),
                *split.groups("scalars"),
            ],
            weight_decay=0.0,
            betas=(self.beta1, self.beta2),
        )
        return MuonWithAdamW(muon, adamw)


class _Split:
    """The parameters of `model` by group and, with `layer_decay`, by depth, with their learning rates."""

    def __init__(self, model: nn.Module, rates: LearningRates) -> None:
        self._kinds = parameter_groups(model)
        self._rates = rates.rates
        self._layer_decay = rates.layer_decay
        self._depths = {} if rates.layer_decay is None else _depths(model)

    def groups(self, kind: GroupName, **options: Any) -> list[dict[str, Any]]:
        """Return the parameter groups of one kind for an optimizer, lowest depth first."""
        parameters, lr = self._kinds[kind], self._rates[kind]
        if self._layer_decay is None or not parameters:
            return [{"params": parameters, "name": kind, "lr": lr, **options}]
        highest = max(self._depths.values())
        return [
            {
                "params": [parameter for parameter in parameters if self._depths[parameter] == depth],
                "name": f"{kind}/{depth:02d}",
                "lr": lr * self._layer_decay ** (highest - depth),
                **options,
            }
            for depth in sorted({self._depths[parameter] for parameter in parameters})
        ]


def _depths(model: nn.Module) -> dict[nn.Parameter, int]:
    if not isinstance(model, Model):
        raise ArgumentError(
            f"layer_decay is set, but the model is a {type(model).__name__}",
            "a modules.model.Model, whose layers are known",
            "leave layer_decay out",
        )
    by_name = depth_of_parameters(model)
    return {parameter: by_name[name] for name, parameter in model.named_parameters()}


def _fused_adamw(groups: list[dict[str, Any]], **options: Any) -> torch.optim.AdamW:
    adamw = torch.optim.AdamW(groups, fused=True, **options)
    # With a fused kernel, a GradScaler would pass scaled gradients, and Lightning then refuses to clip them.
    # They are unscaled before the step instead, as for any other optimizer.
    adamw._step_supports_amp_scaling = False
    return adamw


class MuonWithAdamW(Optimizer):
    """Two optimizers as one, which share its parameter groups and state.

    Schedulers, gradient scalers, clipping and checkpoints thus see an ordinary optimizer.
    """

    def __init__(self, muon: TypedMuon, adamw: torch.optim.AdamW) -> None:
        self._parts: tuple[Optimizer, Optimizer] = (muon, adamw)
        super().__init__(muon.param_groups + adamw.param_groups, defaults={})
        self._share()

    def _share(self) -> None:
        muon, adamw = self._parts
        n_muon = len(muon.param_groups)
        muon.param_groups, adamw.param_groups = self.param_groups[:n_muon], self.param_groups[n_muon:]
        muon.state = adamw.state = self.state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_parts": self._parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Also called by `load_state_dict`, with new groups and a new state.
        super().__setstate__(state)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; `closure` is called once before with gradients, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss
