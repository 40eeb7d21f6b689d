"""Losses, among them a cross-entropy over a large vocabulary that never holds the logits of all tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from modules.errors import ArgumentError

IGNORE_INDEX = -100
#: The number of positions whose logits are in memory at once.
CHUNK_TOKENS = 1024
# Labels are padded to a multiple of this: on CPU, matrix products cache a kernel for every new shape.
PADDED_TO = 256
#: The most logits, and tokens, of a chunk on a CPU if the head is one product (docs/log.md).
MAX_CHUNK_LOGITS, MAX_CHUNK_TOKENS = {torch.float32: 2**19, torch.bfloat16: 2**22}, 4096

_chunks_fit_caches = ContextVar("chunks_fit_caches", default=True)


def token_loss(
    hidden: Float[Tensor, "B T D"],
    head: nn.Module,
    labels: Int[Tensor, "B T"],
    label_index: Int[Tensor, " M"] | None = None,
    *,
    label_smoothing: float = 0.0,
    chunk_tokens: int | None = None,
) -> tuple[Float[Tensor, ""], int]:
    """Return the sum of -ln p(label) in nats (float32), to be divided later, and the number of labels.

    Value and gradients equal those of `F.cross_entropy(head(hidden).float(), labels, reduction="sum")`, with
    its `label_smoothing`. They are computed in chunks, and the gradient of each chunk while its logits are
    available: nothing is computed twice, and only the logits of one chunk are in memory.

    Args:
        hidden: the output of the backbone.
        head: a module from (M, D) to logits (M, V).
        labels: token ids, or IGNORE_INDEX (-100) where nothing is predicted.
        label_index: flat indices into B*T of the labelled positions. Only these are computed, and their
            number is known without synchronizing with the device. None: all are computed, and counting
            synchronizes.
        label_smoothing: the share of each label that is distributed evenly over all V tokens.
        chunk_tokens: the number of positions whose logits are in memory at once; None: `CHUNK_TOKENS`, or
            what is faster on a CPU.

    Source: computing gradients in the forward pass: Hsu et al. 2024, "Liger Kernel", section 3.2 (fused
    linear cross-entropy), here for any head. Label smoothing: Szegedy et al. 2016, "Rethinking the Inception
    Architecture", section 7; Vaswani et al. 2017, section 5.4 (0.1).
    """
    rows, targets, n_tokens = labelled_positions(hidden, labels, label_index)
    if torch.is_grad_enabled() and getattr(head, "is_product", False):
        weight: Any = head.weight
        chunk_tokens = chunk_tokens or product_chunk_tokens(rows, weight)
        nats: Tensor = _ProductNats.apply(rows, weight, targets, label_smoothing, chunk_tokens)  # type: ignore[no-untyped-call]
        return nats, n_tokens
    if torch.is_grad_enabled():
        weights = _trained_weights(head, rows)
        chunk_tokens = chunk_tokens or CHUNK_TOKENS
        nats = _ChunkedNats.apply(rows, targets, head, label_smoothing, chunk_tokens, *weights)  # type: ignore[no-untyped-call]
        return nats, n_tokens
    chunk_tokens = chunk_tokens or fast_chunk_tokens(rows)
    chunks = zip(torch.split(rows, chunk_tokens), torch.split(targets, chunk_tokens), strict=True)
    options: dict[str, Any] = {"reduction": "sum", "label_smoothing": label_smoothing}
    losses = [
        F.cross_entropy(head(chunk).float(), chunk_targets, ignore_index=IGNORE_INDEX, **options)
        for chunk, chunk_targets in chunks
    ]
    return torch.stack(losses).sum(), n_tokens


def fast_chunk_tokens(rows: Float[Tensor, "R D"]) -> int:
    """Return the number of tokens per chunk that is fast without gradients.

    The logits of few tokens stay in the caches of a CPU from one operation to the next. With fewer than the
    width D, heads that add up gradients of their weights (V, D) would take longer than that saves.
    """
    if not _fits_caches(rows):
        return CHUNK_TOKENS
    return min(CHUNK_TOKENS, -(-rows.shape[1] // PADDED_TO) * PADDED_TO)


def product_chunk_tokens(rows: Float[Tensor, "R D"], weight: Float[Tensor, "V D"]) -> int:
    """Return the number of tokens per chunk that is fast with gradients, if the head is one product.

    On a CPU, more tokens make fewer calls, which is faster up to a number of logits.
    """
    least = fast_chunk_tokens(rows)
    if not _fits_caches(rows):
        return least
    fitting = MAX_CHUNK_LOGITS.get(_product_dtype(rows), 0) // (weight.shape[0] * PADDED_TO) * PADDED_TO
    return max(least, min(fitting, MAX_CHUNK_TOKENS))


def _fits_caches(rows: Float[Tensor, "R D"]) -> bool:
    """Return whether chunks are those of a CPU."""
    return rows.device.type == "cpu" and _chunks_fit_caches.get()


@contextmanager
def chunks_as_on_gpu() -> Iterator[None]:
    """Use the chunks of a GPU, to measure on a CPU what a GPU would keep in memory."""
    before = _chunks_fit_caches.set(False)
    try:
        yield
    finally:
        _chunks_fit_caches.reset(before)


def labelled_positions(
    hidden: Float[Tensor, "B T D"],
    labels: Int[Tensor, "B T"],
    label_index: Int[Tensor, " M"] | None = None,
) -> tuple[Float[Tensor, "R D"], Int[Tensor, " R"], int]:
    """Return the rows of `hidden` and the labels to score, padded to R >= M, and the number M of labels."""
    rows, targets = hidden.flatten(0, 1), labels.flatten()
    if label_index is None:
        return rows, targets, int((targets != IGNORE_INDEX).sum())
    missing = -label_index.numel() % PADDED_TO
    rows = F.pad(rows[label_index], (0, 0, 0, missing))
    targets = F.pad(targets[label_index], (0, missing), value=IGNORE_INDEX)
    return rows, targets, label_index.numel()


def span_loss(
    logits: Float[Tensor, "B T 2"], starts: Int[Tensor, " B"], ends: Int[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Return the loss of first and last tokens in nats: the mean of both, summed over rows.

    Source: Devlin et al. 2019, "BERT", section 4.2.
    """
    return F.cross_entropy(logits.float(), torch.stack((starts, ends), dim=1), reduction="sum") / 2


def balanced_weights(class_counts: Int[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Return weights for `F.cross_entropy(weight=...)` that give all classes the same total weight.

    The weight of a class with n_c of the N training rows is N / (C * n_c). The mean over those rows is 1, so
    the weighted sum of losses divided by the number of rows is again a mean.

    Raises:
        ArgumentError: a class has no rows.

    Source: King and Zeng 2001, "Logistic Regression in Rare Events Data", section 4.
    """
    if (class_counts < 1).any():
        empty = (class_counts < 1).nonzero().flatten().tolist()
        raise ArgumentError(f"classes {empty} have no rows", "a row of each class", "leave these classes out")
    return class_counts.sum() / (len(class_counts) * class_counts.float())


def _trained_weights(head: nn.Module, rows: Float[Tensor, "M D"]) -> list[Tensor]:
    """Return the leaves of the head's autograd graph, which include a tied embedding."""
    with torch.enable_grad():
        # Two rows instead of one, which torch.compile would specialize for.
        nodes = [head(rows[:2].detach()).grad_fn]
    leaves: dict[int, Tensor] = {}
    seen = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # only nodes that accumulate into a leaf have one
        if leaf is not None:
            leaves[id(leaf)] = leaf
        nodes += [next_node for next_node, _ in node.next_functions]
    return list(leaves.values())


class _ChunkedNats(torch.autograd.Function):
    """The sum of losses over chunks; the forward pass computes the gradients, the backward pass scales them.

    The gradient of a *sum* of losses is of order 1 for each token. Float16 activations therefore do not
    underflow here, although the loss scale is only applied in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        targets: Tensor,
        head: nn.Module,
        label_smoothing: float,
        chunk_tokens: int,
        *weights: Tensor,
    ) -> Tensor:
        rows_grad = torch.empty_like(rows)
        # In float32 whatever the type of the weights, because many chunks are added up.
        weight_grads = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        nats = torch.zeros((), dtype=torch.float32, device=rows.device)
        splits = (torch.split(tensor, chunk_tokens) for tensor in (rows, targets, rows_grad))
        for chunk, chunk_targets, chunk_grad in zip(*splits, strict=True):
            with torch.enable_grad():
                leaf = chunk.detach().requires_grad_()
                logits = head(leaf)
            chunk_nats, logits_grad = _nats_and_gradient(logits.detach(), chunk_targets, label_smoothing)
            logits_grad.masked_fill_(_is_ignored(chunk_targets), 0)
            grads = torch.autograd.grad(logits, (leaf, *weights), logits_grad, materialize_grads=True)
            nats += chunk_nats
            chunk_grad.copy_(grads[0])
            for total, grad in zip(weight_grads, grads[1:], strict=True):
                total.add_(grad)
            del logits, logits_grad  # before the next chunk needs as much memory
        ctx.save_for_backward(rows_grad, *weight_grads)
        ctx.weight_dtypes = [weight.dtype for weight in weights]
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, nats_grad: Tensor) -> tuple[Tensor | None, ...]:
        rows_grad, *weight_grads = ctx.saved_tensors
        scaled = [
            (grad * nats_grad).to(dtype) for grad, dtype in zip(weight_grads, ctx.weight_dtypes, strict=True)
        ]
        return rows_grad * nats_grad, None, None, None, None, *scaled


class _ProductNats(torch.autograd.Function):
    """The sum of losses over chunks for a head that is one product with its weights.

    Its derivatives are two more products. The weights are converted to the type of autocast once.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, label_smoothing: float, chunk_tokens: int
    ) -> Tensor:
        kind, dtype = rows.device.type, _product_dtype(rows)
        is_ignored = _is_ignored(targets)
        # Rows of zeros add nothing to the gradient of the weights.
        low_rows, low_weight = rows.to(dtype).masked_fill(is_ignored, 0), weight.to(dtype)
        rows_grad = torch.empty_like(low_rows)
        weight_grad = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        nats = torch.zeros((), dtype=torch.float32, device=rows.device)
        splits = (torch.split(tensor, chunk_tokens) for tensor in (low_rows, targets, rows_grad))
        with torch.autocast(kind, enabled=False):
            for chunk, chunk_targets, chunk_grad in zip(*splits, strict=True):
                chunk_nats, grad = _nats_and_gradient(chunk @ low_weight.T, chunk_targets, label_smoothing)
                nats += chunk_nats
                torch.mm(grad, low_weight, out=chunk_grad)
                if weight_grad is not None and dtype == torch.float32:
                    weight_grad.addmm_(grad.T, chunk)
                elif weight_grad is not None:
                    weight_grad += grad.T @ chunk
                del grad  # before the next chunk needs as much memory
        ctx.save_for_backward(rows_grad.masked_fill_(is_ignored, 0), weight_grad)
        ctx.dtypes = rows.dtype, weight.dtype
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, nats_grad: Tensor) -> tuple[Tensor | None, ...]:
        # In float32, since a loss scale could exceed the range of float16.
        rows_grad, weight_grad = (
            None if grad is None else (grad.float() * nats_grad).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return rows_grad, weight_grad, None, None, None


def _product_dtype(rows: Float[Tensor, "M D"]) -> torch.dtype:
    """Return the type in which products are computed, of autocast if it is on."""
    kind = rows.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype


def _is_ignored(targets: Int[Tensor, " M"]) -> Bool[Tensor, "M 1"]:
    return (targets == IGNORE_INDEX).unsqueeze(1)


def _nats_and_gradient(
    logits: Float[Tensor, "M V"], targets: Int[Tensor, " M"], label_smoothing: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "M V"]]:
    """Return the sum of losses, and its gradient by the logits: softmax(logits) - the smoothed labels.

    -ln p(label) is max(z) - z(label) - ln max(p), where max(p), the largest probability, cannot underflow: so
    exp, the slowest operation here, is computed once, in the softmax. The gradient is written over the
    probabilities: autograd would read and write memory several times as often. Where the label is
    IGNORE_INDEX, it is not 0 yet.
    """
    is_ignored = _is_ignored(targets)
    at = targets.unsqueeze(1).masked_fill(is_ignored, 0)
    scores = logits.float()
    largest = scores.amax(1, keepdim=True)
    # Differences of logits first: a sum with ln max(p), which is small, would round it.
    gaps = largest - scores.gather(1, at)
    if label_smoothing:
        gaps = (1 - label_smoothing) * gaps + label_smoothing * (largest - scores).mean(1, keepdim=True)
    # Over a copy of the logits, which is read row by row before it is written; its memory is then reused.
    gradient = torch.softmax(scores, dim=1, out=None if scores is logits else scores)
    nats = (gaps - gradient.amax(1, keepdim=True).log()).masked_fill_(is_ignored, 0).sum()
    gradient.scatter_add_(1, at, torch.full_like(at, label_smoothing - 1, dtype=gradient.dtype))
    if label_smoothing:
        gradient.sub_(label_smoothing / gradient.shape[1])
    return nats, gradient.to(logits.dtype)
