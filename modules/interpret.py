"""Look inside a model without changing it: hooks, never flags."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from modules.attention import MultiHeadAttention
from modules.decoding import evaluating
from modules.model import Model

#: The share of what is attributed that may be missing from the sum, or too much in it.
COMPLETE = 1e-3
#: Steps along the path at first, and at most: doubled until the sum is complete.
FIRST_STEPS, MOST_STEPS = 32, 1024
#: Tokens of all steps that are computed at once.
_TOKENS_AT_ONCE = 8192


class AttentionRecorder:
    """What each attention of a model looked at, by the attention's name in the model.

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

    Gradients are summed along the straight line from the embeddings of `baseline` to those of the row. Steps
    are doubled until the gap is below `COMPLETE`, or there are `most_steps` of them. What the batch holds
    beside `input_ids` is the same all along the line.

    Args:
        model: on the device of the batch.
        batch: of one row.
        score: the model's output for a batch -> the number of each of its rows.
        baseline: token ids in place of the row's; a token that stays is attributed 0.
        most_steps: where to end, whatever the gap is.

    Source: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", section 3, equation 1, and
    section 2.2 (completeness).
    """
    from captum.attr import LayerIntegratedGradients

    ids = batch["input_ids"]
    others = [name for name in batch if name != "input_ids"]

    def output(ids: Tensor, *values: Tensor) -> Tensor:
        return score(model({"input_ids": ids, **dict(zip(others, values, strict=True))}))

    method = LayerIntegratedGradients(output, model.backbone.embedding)
    inputs = tuple(batch[name] for name in others)
    n_steps = min(FIRST_STEPS, most_steps)
    with evaluating(model), torch.autocast(ids.device.type, enabled=False):
        with torch.no_grad():
            outputs = [float(output(some, *inputs)) for some in (ids, baseline)]
        while True:
            with torch.enable_grad():
                values = method.attribute(
                    ids,
                    baselines=baseline,
                    additional_forward_args=inputs or None,
                    n_steps=n_steps,
                    internal_batch_size=max(_TOKENS_AT_ONCE // ids.shape[1], 1),
                )
            found = Attributions(
                values=values.detach().sum(dim=-1)[0],
                output=outputs[0],
                baseline_output=outputs[1],
                n_steps=n_steps,
            )
            if found.is_complete or n_steps >= most_steps:
                return found
            n_steps = min(2 * n_steps, most_steps)


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
