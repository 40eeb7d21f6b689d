"""The interface of a pretraining task: how rows become batches, the loss and metrics, and the samples.

A task holds options only: no weights, no files, no optimizer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.collate import Batch, RowBatch
from datamodules.errors import DataError
from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions
from modules.losses import token_loss
from modules.model import Model

if (
    TYPE_CHECKING
):  # Lightning and torchmetrics take seconds to import, and the configuration is checked before
    from torchmetrics import MetricCollection

    from modules.lit_module import Objective

#: The marker of a gap in a prompt.
GAP = "<mask>"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A model's output with its input and, if there is one, its target.

    `goes_on` tells that the output goes on from the end of what was given, so that both are one text.
    """

    given: str
    output: str
    target: str | None = None
    goes_on: bool = False


class PretrainingTask(Protocol):
    """A way to learn from raw text."""

    #: Tokens that two neighbouring rows of one document share.
    overlap: int

    #: Whether the model fills the gaps of a prompt, instead of going on from its end.
    fills_gaps: bool

    #: The task by the word of model hubs.
    hub_task: str | None

    def row_tokens(self, max_seq_len: int) -> int:
        """Tokens of raw text in a row, such that no batch is longer than `max_seq_len`."""
        ...

    def collator(self, tokenizer: Tokenizer, *, seed: int) -> Callable[[RowBatch], Batch]:
        """The function that makes a batch of rows."""
        ...

    def objective(self, tokenizer: Tokenizer) -> "Objective":
        """Return the loss and the metrics."""
        ...

    def samples(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        prompts: Sequence[str],
        texts: Sequence[str],
        options: SamplingOptions,
    ) -> list[Sample]:
        """Generate samples from `prompts`, or else from `texts` or without a prompt."""
        ...

    def writing(
        self, model: Model, tokenizer: Tokenizer, text: str, options: SamplingOptions
    ) -> dict[str, npt.NDArray[np.int64]]:
        """A text with what the model writes after it, or in its gaps, as labels.

        Raises:
            DataError: the model fills gaps, and the text has none; or the text is longer than it reads.
        """
        ...


class LossOnly(ABC):
    """An objective of which only the loss is tracked during training; a subclass defines the loss.

    Metrics that need all predictions at once are computed by `FinetuneTask.score`.
    """

    @abstractmethod
    def loss(self, model: Model, batch: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], int]:
        """Return the sum of the losses in nats, and the number of labels that they belong to."""

    def metrics(self) -> "MetricCollection":
        """Return the mean loss."""
        from torchmetrics import MetricCollection

        from modules.metrics import MeanLoss

        return MetricCollection({"loss": MeanLoss()})

    def update(self, metrics: "MetricCollection", model: Model, batch: Mapping[str, Tensor]) -> None:
        """Add a batch to the metrics."""
        nats, n = self.loss(model, batch)
        metrics.update(nats=nats, n=n)


class TokenObjective:
    """Cross-entropy at labelled tokens; `token_bytes` (V,) adds bits per byte, where all text is labelled."""

    def __init__(self, *, token_bytes: npt.NDArray[np.integer] | None = None) -> None:
        self.token_bytes = None if token_bytes is None else torch.from_numpy(token_bytes.astype(np.int64))

    def loss(self, model: Model, batch: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], int]:
        """Sum of the losses in nats, and how many tokens they belong to."""
        return token_loss(model.hidden(batch), model.head, batch["labels"], batch["label_index"])

    def metrics(self) -> "MetricCollection":
        """Loss, perplexity, accuracy and, for language models in the narrow sense, bits per byte."""
        from torchmetrics import Metric, MetricCollection

        from modules.metrics import BitsPerByte, Perplexity, TokenAccuracy, TokenLoss

        metrics: dict[str, Metric | MetricCollection] = {
            "loss": TokenLoss(),
            "perplexity": Perplexity(),
            "accuracy": TokenAccuracy(),
        }
        if self.token_bytes is not None:
            metrics["bits_per_byte"] = BitsPerByte(self.token_bytes)
        return MetricCollection(metrics)

    def update(self, metrics: "MetricCollection", model: Model, batch: Mapping[str, Tensor]) -> None:
        """Add a batch to the metrics."""
        from modules.metrics import token_scores

        scores = token_scores(model.hidden(batch), model.head, batch["labels"], batch["label_index"])
        metrics.update(**scores._asdict(), labels=batch["labels"])


def encode_with_gaps(tokenizer: Tokenizer, text: str, gap_ids: Sequence[int]) -> list[int]:
    """The ids of `text`, with one of `gap_ids` for each `<mask>` in it: in order, and over again."""
    first, *rest = text.split(GAP)
    ids = tokenizer.encode(first).tolist()
    for gap, part in zip(cycle(gap_ids), rest, strict=False):
        ids += [gap, *tokenizer.encode(part).tolist()]
    return [tokenizer.bos_id, *ids, tokenizer.eos_id]


def check_gaps(text: str) -> None:
    """Refuse a text without a gap.

    Raises:
        DataError: it has none.
    """
    if GAP not in text:
        raise DataError(
            f"the text has no {GAP}", "a text with gaps for the model to fill", f"write {GAP} in the text"
        )


def check_length(n_tokens: int, model: Model) -> None:
    """Refuse a text that is longer than the model reads.

    Raises:
        DataError: it is too long.
    """
    most = model.backbone.max_seq_len
    if n_tokens > most:
        raise DataError(
            f"the text has {n_tokens:,} tokens, including special tokens",
            f"at most {most:,}",
            "shorten the text",
        )
