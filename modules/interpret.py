"""Inspect a model with hooks, without changing it: attention weights, attributions, token probabilities."""

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

#: The maximum relative error of the sum of attributions.
COMPLETE = 1e-3
#: The maximum number of points at which gradients are computed.
MOST_STEPS = 1024
#: The initial number of parts of the path; parts with an error are halved.
_FIRST_PARTS = 8
# Gauss-Lobatto quadrature on [0, 1], exact to degree 7. The ends and the middle of a part are nodes too, so
# that they need not be computed again when it is halved.
_NODES = (0.0, (1 - math.sqrt(3 / 7)) / 2, 0.5, (1 + math.sqrt(3 / 7)) / 2, 1.0)
_WEIGHTS = (1 / 20, 49 / 180, 16 / 45, 49 / 180, 1 / 20)
#: The number of points that halving a part adds: the three inner ones of each half.
_NEW_POINTS = 6
#: The number of tokens, over all points, that are computed at once.
_TOKENS_AT_ONCE = 8192


class AttentionRecorder:
    """Records the attention weights of a model, by the name of each attention module.

    A recorded forward pass computes the weights a second time, slowly and in float32. Outside of
    `recording()` there is no overhead.

    Source: the weights are softmax(Q K^T / sqrt(d_k)) of Vaswani et al. 2017, section 3.2.1, equation 1.
    """

    def __init__(self, model: nn.Module) -> None:
        self._attentions = {
            name: module for name, module in model.named_modules() if isinstance(module, MultiHeadAttention)
        }
        self.weights: dict[str, Float[Tensor, "B H T S"]] = {}

    @contextmanager
    def recording(self) -> Iterator["AttentionRecorder"]:
        """Record within this block; of several forward passes the last one is kept."""
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
        """Return the recorded weights of each stack's last layer, with names such as `encoder.self_attn`."""
        last = {}
        for name, weights in self.weights.items():
            stack, _, attention = name.partition(".layers.")
            last[f"{stack.rpartition('.')[2]}.{attention.partition('.')[2]}"] = weights
        return last


@dataclass(frozen=True, kw_only=True)
class Attributions:
    """The contribution of each token to a score that a model computes.

    Args:
        values: (T,), the contribution of each token; their sum is `output - baseline_output`, up to the gap.
        output: the score of the row.
        baseline_output: the score of the baseline.
        n_steps: the number of points at which gradients were computed.
    """

    values: Float[Tensor, " T"]
    output: float
    baseline_output: float
    n_steps: int

    @property
    def gap(self) -> float:
        """The relative error of the sum of contributions; 0 is complete."""
        change = self.output - self.baseline_output
        missing = abs(float(self.values.double().sum()) - change)
        return missing / abs(change) if change else missing

    @property
    def is_complete(self) -> bool:
        """Whether the gap is within the tolerance."""
        return self.gap < COMPLETE


def integrated_gradients(
    model: Model,
    batch: Mapping[str, Tensor],
    score: Callable[[Tensor], Float[Tensor, " B"]],
    *,
    baseline: Int[Tensor, "1 T"],
    most_steps: int = MOST_STEPS,
) -> Attributions:
    """Attribute a score to the embeddings of a row's tokens by integrated gradients.

    Gradients are integrated along the straight path from the embeddings of `baseline` to those of the row.
    The score may change within a tenth of the path and nowhere else, so the path is divided. The exact
    integral of a part is known: it is the difference of the scores at its ends. Parts with an error are
    halved until the errors of all parts add up to less than `COMPLETE`, or there are `most_steps` points.
    Tensors of the batch other than `input_ids` are constant along the path.

    Args:
        model: the model, on the device of the batch.
        batch: a batch of one row.
        score: a function from the model's output for a batch to the score of each row.
        baseline: the token ids of the baseline; tokens equal to the row's get an attribution of 0.
        most_steps: the maximum number of points, whatever the gap is.

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
    """The path from a baseline to a row: the score and its slope for each token, at points in [0, 1]."""

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
        """Return the difference between the integral over a part and the change of the score."""
        return abs(float(self.integral(part).sum()) - self._outputs[part[1]] + self._outputs[part[0]])

    def visit(self, parts: Sequence[tuple[float, float]]) -> None:
        """Compute the points of these parts that are not known yet."""
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
    """Return the parts to halve, the worst first: all but those whose errors add up to half of `allowed`.

    There are none if the errors of all parts add up to less than `allowed`.
    """
    errors = {part: path.error(part) for part in sorted(parts, key=path.error)}
    if sum(errors.values()) < allowed:
        return []
    kept = [total <= allowed / 2 for total in accumulate(errors.values())]
    return list(errors)[sum(kept) :][::-1]


@dataclass(frozen=True, kw_only=True)
class TokenChoices:
    """The probabilities that a model assigns to the labelled tokens of a batch, in their order.

    Args:
        ids: (N,), the labels.
        probabilities: (N,), the probabilities of the labels.
        ranks: (N,), the number of tokens that are more likely.
        best_ids: (N, K), the most likely tokens.
        best_probabilities: (N, K), their probabilities.
    """

    ids: Int[Tensor, " N"]
    probabilities: Float[Tensor, " N"]
    ranks: Int[Tensor, " N"]
    best_ids: Int[Tensor, "N K"]
    best_probabilities: Float[Tensor, "N K"]


def token_choices(model: Model, batch: Mapping[str, Tensor], *, n_best: int, ignored: int) -> TokenChoices:
    """Return the probability of each label that is not `ignored`, and the most likely tokens there."""
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
