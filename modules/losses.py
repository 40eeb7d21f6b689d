"""Cross-entropy over a large vocabulary without ever holding the logits of all tokens at once."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from modules.errors import ArgumentError

IGNORE_INDEX = -100
CHUNK_TOKENS = 1024
# Labels are padded to a multiple: on CPU, matrix products keep a kernel for every shape that they meet.
PADDED_TO = 256


def token_loss(
    hidden: Float[Tensor, "B T D"],
    head: nn.Module,
    labels: Int[Tensor, "B T"],
    label_index: Int[Tensor, " M"] | None = None,
    *,
    label_smoothing: float = 0.0,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Float[Tensor, ""], int]:
    """The training loss, not yet divided: the sum of -ln p(label) in nats (float32), and how many labels.

    Value and gradients are those of `F.cross_entropy(head(hidden).float(), labels, reduction="sum")`, with
    its `label_smoothing`. Up to `chunk_tokens` labels are computed just so. More are taken chunk by chunk,
    and each chunk's gradient is computed while its logits are there: nothing is computed twice, and memory
    holds the logits of one chunk.

    Args:
        hidden: output of the backbone.
        head: (M, D) -> logits (M, V).
        labels: token ids; IGNORE_INDEX (-100) where nothing is predicted.
        label_index: flat indices into B*T of the labelled positions: only they are computed, and their number
            is known without asking the device. None: all are computed, and counting waits for the device.
        label_smoothing: this share of each label is spread evenly over all V tokens.
        chunk_tokens: how many positions have their logits in memory at once.

    Source: the gradient-in-forward form is that of Hsu et al. 2024, "Liger Kernel", section 3.2 (fused linear
    cross-entropy), here for any head. Label smoothing: Szegedy et al. 2016, "Rethinking the
    Inception Architecture", section 7; Vaswani et al. 2017, section 5.4 (0.1).
    """
    rows, targets, n_tokens = labelled_positions(hidden, labels, label_index)
    if rows.shape[0] <= chunk_tokens:
        return _nats(head, rows, targets, label_smoothing), n_tokens
    if torch.is_grad_enabled():
        weights = _trained_weights(head, rows)
        nats: Tensor = _ChunkedNats.apply(rows, targets, head, label_smoothing, chunk_tokens, *weights)  # type: ignore[no-untyped-call]
        return nats, n_tokens
    chunks = zip(torch.split(rows, chunk_tokens), torch.split(targets, chunk_tokens), strict=True)
    return torch.stack([_nats(head, *chunk, label_smoothing) for chunk in chunks]).sum(), n_tokens


def labelled_positions(
    hidden: Float[Tensor, "B T D"],
    labels: Int[Tensor, "B T"],
    label_index: Int[Tensor, " M"] | None = None,
) -> tuple[Float[Tensor, "R D"], Int[Tensor, " R"], int]:
    """The rows of `hidden` and the labels to be scored, flat, and how many of the labels count; R >= M."""
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
    """The loss of an answer's first and last token, of each row the mean of both, summed over rows: nats.

    Source: Devlin et al. 2019, "BERT", section 4.2.
    """
    return F.cross_entropy(logits.float(), torch.stack((starts, ends), dim=1), reduction="sum") / 2


def balanced_weights(class_counts: Int[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Weights of classes for `F.cross_entropy(weight=...)`, so that each class counts as much as any other.

    N / (C * n_c) for a class that n_c of the N training rows have. Their mean over those rows is 1, so that
    the weighted sum of nats divided by the number of rows is again a mean.

    Raises:
        ArgumentError: a class has no row.

    Source: King and Zeng 2001, "Logistic Regression in Rare Events Data", section 4.
    """
    if (class_counts < 1).any():
        empty = (class_counts < 1).nonzero().flatten().tolist()
        raise ArgumentError(f"classes {empty} have no row", "at least one of each", "leave them out")
    return class_counts.sum() / (len(class_counts) * class_counts.float())


def _nats(head: nn.Module, rows: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    return F.cross_entropy(
        head(rows).float(),
        targets,
        ignore_index=IGNORE_INDEX,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def _trained_weights(head: nn.Module, rows: Float[Tensor, "M D"]) -> list[Tensor]:
    """The leaves that the gradients of `head` end in, read off its graph: a tied embedding is not its own."""
    with torch.enable_grad():
        # Two rows and not one: torch.compile would make a special case of one.
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
    """Sum of nats over chunks; forward computes the gradients, backward scales them.

    The gradient of a *sum* of nats is of order 1 for each token, so that float16 activations do not underflow
    here although a loss scale is only applied in backward.
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
        # In float32 whatever the weights are: many chunks are added up.
        weight_grads = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        nats = torch.zeros((), dtype=torch.float32, device=rows.device)
        splits = (torch.split(tensor, chunk_tokens) for tensor in (rows, targets, rows_grad))
        for chunk, chunk_targets, chunk_grad in zip(*splits, strict=True):
            with torch.enable_grad():
                leaf = chunk.detach().requires_grad_()
                chunk_nats = _nats(head, leaf, chunk_targets, label_smoothing)
            grads = torch.autograd.grad(chunk_nats, (leaf, *weights), materialize_grads=True)
            nats += chunk_nats.detach()
            chunk_grad.copy_(grads[0])
            for total, grad in zip(weight_grads, grads[1:], strict=True):
                total.add_(grad)
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
