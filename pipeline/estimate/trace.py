"""Trace a training step of a shallow model on tensors without storage, to find the memory of each part."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from modules.attention import MultiHeadAttention, attention_as_on_gpu
from modules.losses import chunks_as_on_gpu
from modules.model import Model
from modules.norms import RMSNorm, rms_norm_as_on_gpu
from modules.optim import LearningRates
from modules.recompute import Recompute
from modules.transformer import Stack, Transformer, set_recompute
from pipeline.config.construct import construct
from pipeline.config.model import build_head
from pipeline.estimate.live_bytes import Bytes, LiveBytes
from pipeline.machine.devices import autocast_dtype

#: The parts of a step in which memory may peak. Between the two parts of the backward pass it changes evenly
#: from layer to layer, so it cannot peak there.
FORWARD, BACKWARD_BEGINS, BACKWARD_ENDS, UPDATE = (
    "end of the forward pass",
    "beginning of the backward pass",
    "end of the backward pass",
    "update of the weights",
)
PARTS = (FORWARD, BACKWARD_BEGINS, BACKWARD_ENDS, UPDATE)
_BETWEEN = "middle of the backward pass"

#: The depths that are traced; from these on, each further layer adds the same memory.
SHALLOW, DEEPER = 2, 3


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step to trace.

    Args:
        model: the configuration of backbone and head.
        vocab_size: the size of the vocabulary.
        optimizer: the configuration of the optimizer, without `auto` values.
        loss: a function from the model and a batch to the sum of the losses and their number.
        batch: a function from a number of rows to a batch, with ordinary tensors.
        precision: fp32, bf16 or fp16.
        on_gpu: trace what the kernels of a GPU keep for the backward pass.
        keeps_gradients: whether gradients of earlier micro batches exist (accumulation).
        averages: whether a second copy of the weights is kept (EMA).
    """

    model: Mapping[str, Any]
    vocab_size: int
    optimizer: Mapping[str, Any]
    loss: Callable[[Model, Mapping[str, Tensor]], tuple[Tensor, int]]
    batch: Callable[[int], Mapping[str, Tensor]]
    precision: str
    on_gpu: bool
    keeps_gradients: bool = False
    averages: bool = False


@dataclass(frozen=True)
class Peaks:
    """Bytes by kind at the peak of each part of a step."""

    parts: Mapping[str, Bytes]

    def along(self, deeper: "Peaks", share: float) -> "Peaks":
        """Interpolate or extrapolate linearly: 0 gives these peaks, 1 gives `deeper`."""
        return Peaks({part: _between(self.parts[part], deeper.parts[part], share) for part in PARTS})


def _between(first: Bytes, second: Bytes, share: float) -> Bytes:
    kinds = {**first, **second}
    return {kind: first.get(kind, 0) + share * (second.get(kind, 0) - first.get(kind, 0)) for kind in kinds}


def trace(step: Step, *, n_rows: int, recompute: Recompute = "none") -> Peaks:
    """Return the peaks for the configured depth, extrapolated from two small depths.

    The memory of a step is linear in depth, part by part: each layer adds its weights and what it keeps for
    the backward pass.
    """
    depth = int(step.model["backbone"]["n_layers"])
    if depth <= DEEPER:
        return traced(step, n_layers=depth, n_rows=n_rows, recompute=recompute)
    first, second = (
        traced(step, n_layers=n_layers, n_rows=n_rows, recompute=recompute) for n_layers in (SHALLOW, DEEPER)
    )
    return first.along(second, (depth - SHALLOW) / (DEEPER - SHALLOW))


def traced(step: Step, *, n_layers: int, n_rows: int, recompute: Recompute = "none") -> Peaks:
    """Return the peaks of a step of a model with `n_layers`."""
    rows = step.batch(n_rows)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, ExitStack() as stack:
        if step.on_gpu:
            stack.enter_context(attention_as_on_gpu())
            stack.enter_context(chunks_as_on_gpu())
        model = _model(step, n_layers)
        set_recompute(model, recompute)
        batch = {key: fake.from_tensor(value) for key, value in rows.items()}
        optimizer = construct(step.optimizer, LearningRates).build(model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        if not step.keeps_gradients:
            optimizer.zero_grad()
        live = LiveBytes()
        live.hold(model.parameters(), "parameters")
        live.hold(model.buffers(), "parameters")
        live.hold((p.grad for p in model.parameters() if p.grad is not None), "gradients")
        live.hold(_tensors(optimizer.state), "optimizer")
        live.hold(batch.values(), "batch")
        live.watch_gradients(model)
        _mark_backward(model, live)
        _run(step, model, optimizer, batch, live)
    peaks = live.peaks
    if step.averages:
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        peaks = {
            part: {**kinds, "optimizer": kinds.get("optimizer", 0) + weights} for part, kinds in peaks.items()
        }
    return Peaks({part: peaks.get(part, peaks[BACKWARD_BEGINS]) for part in PARTS})


def _run(
    step: Step,
    model: Model,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, Tensor],
    live: LiveBytes,
) -> None:
    dtype = autocast_dtype(step.precision)
    with live:
        with (
            live.part(FORWARD, "activations"),
            torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None),
        ):
            total, n_tokens = step.loss(model, batch)
        with live.part(BACKWARD_BEGINS, "temporary"):
            torch.autograd.backward(total / n_tokens)
        del total
        with live.part(UPDATE, "temporary"):
            optimizer.step()


def _model(step: Step, n_layers: int) -> Model:
    node = {**step.model["backbone"], "n_layers": n_layers}
    backbone = construct(node, Transformer, vocab_size=step.vocab_size)
    model = Model(backbone, build_head(step.model["head"], backbone))
    if step.on_gpu:
        for part in model.modules():
            if isinstance(part, RMSNorm):
                part.forward = partial(rms_norm_as_on_gpu, part)  # type: ignore[method-assign]
            if isinstance(part, MultiHeadAttention):
                part.dropout = 0.0  # the fused kernel of a GPU keeps a seed instead of a mask
    return model


def _mark_backward(model: nn.Module, live: LiveBytes) -> None:
    """Mark when the backward pass has left the last layer, and when it reaches the first."""
    layers = [layer for part in model.modules() if isinstance(part, Stack) for layer in part.layers]
    if len(layers) < 2:
        return
    for layer, part in ((layers[1], BACKWARD_ENDS), (layers[-1], _BETWEEN)):
        if layer is layers[1] and part == _BETWEEN:
            continue  # with two layers, one is the last and the other is the first
        hook = partial(_enter, live, part)
        next(layer.parameters()).register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]


def _enter(live: LiveBytes, part: str, parameter: Tensor) -> None:
    live.enter(part, "temporary")


def _tensors(state: Mapping[Any, Any]) -> Iterator[Tensor]:
    for values in state.values():
        yield from (value for value in values.values() if isinstance(value, Tensor))
