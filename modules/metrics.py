"""Metrics of language models: sums over tokens that are divided once at the end.

Every state is a sum, so batches of different sizes, processes and data loaders are all weighted by tokens.
`token_scores` computes the inputs of all metrics in one pass over the vocabulary: put the metrics into a
`MetricCollection` and pass the scores and the labels to its `update` by name.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from modules.losses import IGNORE_INDEX, fast_chunk_tokens, labelled_positions


class TokenScores(NamedTuple):
    """Sums over the labelled positions of a batch and of each of its rows, on the device of the batch."""

    nats: Float[Tensor, ""]
    n_tokens: int
    n_correct: Int[Tensor, ""]
    row_nats: Float[Tensor, " B"]


@torch.no_grad()
def token_scores(
    hidden: Float[Tensor, "B T D"],
    head: nn.Module,
    labels: Int[Tensor, "B T"],
    label_index: Int[Tensor, " M"] | None = None,
    *,
    chunk_tokens: int | None = None,
) -> TokenScores:
    """Score a validation batch in one pass, without gradients and with the logits of one chunk at a time.

    The arguments are those of `modules.losses.token_loss`. A label is correct if it is the argmax.
    """
    rows, targets, n_tokens = labelled_positions(hidden, labels, label_index)
    chunk_tokens = chunk_tokens or fast_chunk_tokens(rows)
    losses: list[Tensor] = []
    n_correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
    for chunk, chunk_targets in zip(
        torch.split(rows, chunk_tokens), torch.split(targets, chunk_tokens), strict=True
    ):
        logits = head(chunk).float()
        losses.append(F.cross_entropy(logits, chunk_targets, ignore_index=IGNORE_INDEX, reduction="none"))
        n_correct += (logits.argmax(-1) == chunk_targets).sum()
    row_nats = _row_sums(torch.cat(losses), labels, label_index)
    return TokenScores(row_nats.sum(), n_tokens, n_correct, row_nats)


def _row_sums(
    losses: Float[Tensor, " R"], labels: Int[Tensor, "B T"], label_index: Int[Tensor, " M"] | None
) -> Float[Tensor, " B"]:
    """Sum the losses of each row's labels; losses beyond the M labels are padding."""
    n_rows, length = labels.shape
    if label_index is None:
        return losses.view(n_rows, length).sum(1)
    sums = torch.zeros(n_rows, dtype=losses.dtype, device=losses.device)
    return sums.index_add(0, label_index // length, losses[: label_index.numel()])


class MeanLoss(Metric):
    """The mean loss in nats of any unit that is counted, such as rows."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    nats: Tensor
    n: Tensor

    def __init__(self, **metric_options: Any) -> None:
        super().__init__(**metric_options)
        self.add_state("nats", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("n", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, nats: Float[Tensor, ""], n: int) -> None:
        """Add the sums of a batch."""
        self.nats += nats
        self.n += n

    def compute(self) -> Float[Tensor, ""]:
        """Return the mean in nats; NaN if nothing was counted."""
        return self.nats / self.n


class TokenLoss(MeanLoss):
    """The mean cross-entropy per token, in nats."""

    def update(self, nats: Float[Tensor, ""], n_tokens: int) -> None:
        """Add the sums of a batch."""
        super().update(nats, n_tokens)


class Perplexity(TokenLoss):
    """exp of the mean cross-entropy per token: `torchmetrics.text.Perplexity` without all logits."""

    def compute(self) -> Float[Tensor, ""]:
        """Return the perplexity; NaN if there were no labels."""
        return super().compute().exp()


class RowLoss(Metric):
    """The loss in nats and the number of labelled tokens of each row, in order."""

    full_state_update = False
    is_differentiable = False
    nats: list[Tensor]
    n_tokens: list[Tensor]

    def __init__(self, **metric_options: Any) -> None:
        super().__init__(**metric_options)
        self.add_state("nats", [], dist_reduce_fx="cat")
        self.add_state("n_tokens", [], dist_reduce_fx="cat")

    def update(self, row_nats: Float[Tensor, " B"], labels: Int[Tensor, "B T"]) -> None:
        """Add the rows of a batch."""
        self.nats.append(row_nats)
        self.n_tokens.append((labels != IGNORE_INDEX).sum(1))

    def compute(self) -> Float[Tensor, "N 2"]:
        """Return nats and labelled tokens of each row."""
        return torch.stack((dim_zero_cat(self.nats), dim_zero_cat(self.n_tokens).float()), dim=1)


class BitsPerByte(Metric):
    """Cross-entropy in bits per byte of text, which is comparable between tokenizers.

    Special tokens represent no text: their bits are counted, and their bytes are 0.

    Args:
        token_bytes: the number of UTF-8 bytes of text that each token id represents.

    Source: Gao et al. 2020, "The Pile", section 3.1.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    nats: Tensor
    n_bytes: Tensor
    token_bytes: Tensor

    def __init__(self, token_bytes: Int[Tensor, " V"], **metric_options: Any) -> None:
        super().__init__(**metric_options)
        self.register_buffer("token_bytes", torch.as_tensor(token_bytes, dtype=torch.int64), persistent=False)
        self.add_state("nats", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("n_bytes", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, nats: Float[Tensor, ""], labels: Int[Tensor, "..."]) -> None:
        """Add the sum of nats of a batch, and its labels of any shape (-100 for none)."""
        self.nats += nats
        self.n_bytes += (self.token_bytes[labels.clamp(min=0)] * (labels != IGNORE_INDEX)).sum()

    def compute(self) -> Float[Tensor, ""]:
        """Return bits per byte; NaN if there was no text."""
        return self.nats / math.log(2) / self.n_bytes


class TokenAccuracy(Metric):
    """The fraction of labelled tokens that are the model's most likely token."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    n_correct: Tensor
    n_tokens: Tensor

    def __init__(self, **metric_options: Any) -> None:
        super().__init__(**metric_options)
        self.add_state("n_correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("n_tokens", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, n_correct: Int[Tensor, ""], n_tokens: int) -> None:
        """Add the counts of a batch."""
        self.n_correct += n_correct
        self.n_tokens += n_tokens

    def compute(self) -> Float[Tensor, ""]:
        """Return the accuracy from 0 to 1; NaN if there were no labels."""
        return self.n_correct / self.n_tokens
