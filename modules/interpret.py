"""Look inside a model without changing it: hooks, never flags."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from modules.attention import MultiHeadAttention
from modules.decoding import evaluating
from modules.model import Model

#: The share of what is attributed that may be missing from the sum, or too much in it.
COMPLETE = 1e-3
#: Points of the path at which gradients are taken, at most.
MOST_STEPS = 1024
#: Parts of the path at first; those where the sum is not complete are halved.
_FIRST_PARTS = 8
#: Gauss-Lobatto quadrature on [0, 1]: exact to degree 7; a half begins, ends and halves at known points.
_NODES = (0.0, (1 - math.sqrt(3 / 7)) / 2, 0.5, (1 + math.sqrt(3 / 7)) / 2, 1.0)
_WEIGHTS = (1 / 20, 49 / 180, 16 / 45, 49 / 180, 1 / 20)
#: Points that halving a part adds: the three inner ones of each half.
_NEW_POINTS = 6
#: Tokens of all points that are computed at once.
_TOKENS_AT_ONCE = 8192


class AttentionRecorder:
    """Records the attention weights of a model, by the name of each attention module.

    A recorded forward pass computes the weights a second time, slowly and in float32; without `recording()`
    the model is as fast as ever.

    Source: the weights are softmax(Q K^T / sqrt(d_k)) of Vaswani et al. 2017, section 3.2.1, equation 1.
    """

    def __init__(self, model: nn.Module) -> None:
        self._attentions = {
            name: module for name, module in model.named_modules() if isinstance(module, MultiHeadAttention)
        }
        self.weights: dict[str, Float[Tensor, "B H T S"]] = {}

    @contextmanager
    def recording(self) -> Iterator["AttentionRecorder"]:
        """Record within this block; of several forward passes the last one stays."""
        with ExitStack() as hooks:
            for name, attention in self._attentions.items():
                hook = partial(self._record, name)
                hooks.enter_context(attention.register_forward_hook(hook, with_kwargs=True))
            yield self

    def _record(
        self, name: str, module: MultiHeadAttention, args: Any, kwargs: dict[str, Any], output: Tensor
    ) -> None:
        self.weights[name] = module.attention_weights(*args, **kwargs).detach()

    def last_layer(self) -> dict[str, Float[Tensor, "B H T S"]]:
        """The recorded weights of the last layer of each stack, by names as `encoder.self_attn`."""
        last = {}
        for name, weights in self.weights.items():
            stack, _, attention = name.partition(".layers.")
            last[f"{stack.rpartition('.')[2]}.{attention.partition('.')[2]}"] = weights
        return last


@dataclass(frozen=True, kw_only=True)
class Attributions:
    """How much each token contributes to a number that a model computes.

    Args:
        values: (T,), one for each token of the row; their sum is `output - baseline_output`, less the gap.
        output: the number, of the row.
        baseline_output: the number, of the baseline.
        n_steps: points of the path at which gradients were taken.
    """

    values: Float[Tensor, " T"]
    output: float
    baseline_output: float
    n_steps: int

    @property
    def gap(self) -> float:
        """How far the sum is from what it should be, as a share of that: 0 is complete."""
        change = self.output - self.baseline_output
        missing = abs(float(self.values.double().sum()) - change)
        return missing / abs(change) if change else missing

    @property
    def is_complete(self) -> bool:
        """Whether the gap is small enough."""
        return self.gap < COMPLETE


def integrated_gradients(
    model: Model,
    batch: Mapping[str, Tensor],
    score: Callable[[Tensor], Float[Tensor, " B"]],
    *,
    baseline: Int[Tensor, "1 T"],
    most_steps: int = MOST_STEPS,
) -> Attributions:
    """Attribute a number to the embeddings of a row's tokens.

    Gradients are integrated along the straight line from the embeddings of `baseline` to those of the row.
    Models leave the baseline abruptly: the number may change in a tenth of the line and nowhere else. So the
    line is divided. What a part must add up to is known, the difference of the number at its ends; parts
    that miss it are halved until all of them together miss less than `COMPLETE`, or there are `most_steps`
    points. What the batch holds beside `input_ids` is the same all along the line.

    Args:
        model: on the device of the batch.
        batch: of one row.
        score: the model's output for a batch -> the number of each of its rows.
        baseline: token ids in place of the row's; a token that stays is attributed 0.
        most_steps: where to end, whatever the gap is.

    Source: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", section 3, equation 1, and
    section 2.2 (completeness); Abramowitz and Stegun 1964, equation 25.4.32 (Gauss-Lobatto).
    """
    with evaluating(model), torch.autocast(batch["input_ids"].device.type, enabled=False):
        path = _Path(model, batch, score, baseline)
        edges = torch.linspace(0, 1, _FIRST_PARTS + 1).tolist()
        parts = list(pairwise(edges))
        path.visit(parts)
        allowed = COMPLETE * abs(path.output(1.0) - path.output(0.0))
        while worst := _worst(parts, path, allowed)[: max(most_steps - path.n_points, 0) // _NEW_POINTS]:
            halves = [half for begin, end in worst for half in pairwise((begin, (begin + end) / 2, end))]
            path.visit(halves)
            parts = [part for part in parts if part not in worst] + halves
    return Attributions(
        values=torch.stack([path.integral(part) for part in parts]).sum(dim=0),
        output=path.output(1.0),
        baseline_output=path.output(0.0),
        n_steps=path.n_points,
    )


class _Path:
    """The line from a baseline to a row: the number and its slope for each token, at points in [0, 1]."""

    def __init__(
        self,
        model: Model,
        batch: Mapping[str, Tensor],
        score: Callable[[Tensor], Float[Tensor, " B"]],
        baseline: Int[Tensor, "1 T"],
    ) -> None:
        self._model, self._batch, self._score = model, batch, score
        with torch.no_grad():
            self._begin = model.backbone.embedding(baseline)
            self._way = model.backbone.embedding(batch["input_ids"]) - self._begin
        self._outputs: dict[float, float] = {}
        self._slopes: dict[float, Float[Tensor, " T"]] = {}

    @property
    def n_points(self) -> int:
        return len(self._outputs)

    def output(self, point: float) -> float:
        return self._outputs[point]

    def integral(self, part: tuple[float, float]) -> Float[Tensor, " T"]:
        slopes = torch.stack([self._slopes[point] for point in _points(part)])
        return slopes.new_tensor(_WEIGHTS) @ slopes * (part[1] - part[0])

    def error(self, part: tuple[float, float]) -> float:
        """How far the integral is from what the number changes by."""
        return abs(float(self.integral(part).sum()) - self._outputs[part[1]] + self._outputs[part[0]])

    def visit(self, parts: Sequence[tuple[float, float]]) -> None:
        """Compute the points of these parts that are not known."""
        points = sorted({point for part in parts for point in _points(part)} - self._outputs.keys())
        size = max(_TOKENS_AT_ONCE // self._way.shape[1], 1)
        for first in range(0, len(points), size):
            some = points[first : first + size]
            outputs, slopes = self._at(some)
            self._outputs |= zip(some, outputs.tolist(), strict=True)
            self._slopes |= zip(some, slopes.double(), strict=True)

    def _at(self, points: Sequence[float]) -> tuple[Float[Tensor, " N"], Float[Tensor, "N T"]]:
        shares = self._way.new_tensor(points)[:, None, None]
        embedded = (self._begin + shares * self._way).requires_grad_()
        batch = {name: tensor.expand(len(points), *tensor.shape[1:]) for name, tensor in self._batch.items()}
        hook = self._model.backbone.embedding.register_forward_hook(lambda *_: embedded)
        try:
            with torch.enable_grad():
                outputs = self._score(self._model(batch))
        finally:
            hook.remove()
        (slopes,) = torch.autograd.grad(outputs.sum(), embedded)
        return outputs.detach(), (slopes * self._way).sum(dim=-1)


def _points(part: tuple[float, float]) -> list[float]:
    begin, end = part
    return [begin, *(begin + node * (end - begin) for node in _NODES[1:-1]), end]


def _worst(parts: Sequence[tuple[float, float]], path: _Path, allowed: float) -> list[tuple[float, float]]:
    """The parts to halve, the worst first: all but those that together miss half of what is allowed.

    There are none where all parts together miss less than what is allowed.
    """
    errors = {part: path.error(part) for part in sorted(parts, key=path.error)}
    if sum(errors.values()) < allowed:
        return []
    kept = [total <= allowed / 2 for total in accumulate(errors.values())]
    return list(errors)[sum(kept) :][::-1]


@dataclass(frozen=True, kw_only=True)
class TokenChoices:
    """What a model held of the labelled tokens of a batch, in their order.

    Args:
        ids: (N,), the labels.
        probabilities: (N,), of the labels.
        ranks: (N,), how many tokens were likelier.
        best_ids: (N, K), the likeliest tokens.
        best_probabilities: (N, K), theirs.
    """

    ids: Int[Tensor, " N"]
    probabilities: Float[Tensor, " N"]
    ranks: Int[Tensor, " N"]
    best_ids: Int[Tensor, "N K"]
    best_probabilities: Float[Tensor, "N K"]


def token_choices(model: Model, batch: Mapping[str, Tensor], *, n_best: int, ignored: int) -> TokenChoices:
    """The probability of each label in `batch` that is not `ignored`, and of the likeliest tokens there."""
    with evaluating(model), torch.no_grad(), torch.autocast(batch["labels"].device.type, enabled=False):
        labelled = batch["labels"] != ignored
        ids = batch["labels"][labelled]
        shares = model.head(model.hidden(batch)[labelled]).double().softmax(dim=-1)
    own = shares.gather(1, ids[:, None])
    best, best_ids = shares.topk(min(n_best, shares.shape[1]), dim=1)
    return TokenChoices(
        ids=ids,
        probabilities=own[:, 0],
        ranks=(shares > own).sum(dim=1),
        best_ids=best_ids,
        best_probabilities=best,
    )
