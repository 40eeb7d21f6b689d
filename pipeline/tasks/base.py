"""The interface of a pretraining task: how rows become batches, the loss and metrics, and sample outputs.

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

#: The text that marks a gap in a prompt.
GAP = "<mask>"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A model's input and output, with the target if there is one.

    `is_continuation` says that the output continues the input, so that both are shown as one text.
    """

    input: str
    output: str
    target: str | None = None
    is_continuation: bool = False


class PretrainingTask(Protocol):
    """The interface of an objective that is learned from raw text."""

    #: The number of tokens by which consecutive rows of one document overlap.
    overlap: int

    #: Whether the model fills gaps in a prompt instead of continuing it.
    fills_gaps: bool

    #: The name of the task on the Hugging Face Hub, such as `fill-mask`; None if it has none.
    hub_task: str | None

    def row_tokens(self, max_seq_len: int) -> int:
        """Return the number of tokens of raw text per row for which no batch is longer than `max_seq_len`."""
        ...

    def collator(self, tokenizer: Tokenizer, *, seed: int) -> Callable[[RowBatch], Batch]:
        """Return the function that collates rows into a batch."""
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
        """Return a text as model inputs, with the tokens that the model generates for it as labels.

        Raises:
            DataError: the model fills gaps and the text has none, or the text is longer than the context.
        """
        ...


class LossOnly(ABC):
    """An objective that tracks only the loss during training; a subclass defines the loss.

    Metrics that need all predictions at once are computed by `FinetuneTask.score`.
    """

    @abstractmethod
    def loss(self, model: Model, batch: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], int]:
        """Return the sum of the losses in nats and the number of labels that it covers."""

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
    """Cross-entropy at the labelled tokens.

    Args:
        token_bytes: the number of bytes of each token (V,), to report bits per byte too. This requires that
            every token of the text is labelled.
    """

    def __init__(self, *, token_bytes: npt.NDArray[np.integer] | None = None) -> None:
        self.token_bytes = None if token_bytes is None else torch.from_numpy(token_bytes.astype(np.int64))

    def loss(self, model: Model, batch: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], int]:
        """Return the sum of the losses in nats and the number of labelled tokens."""
        return token_loss(model.hidden(batch), model.head, batch["labels"], batch["label_index"])

    def metrics(self) -> "MetricCollection":
        """Return loss, perplexity, accuracy and, if `token_bytes` is set, bits per byte."""
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
    """Return the ids of `text` with each `<mask>` replaced by the next of `gap_ids`, which repeat."""
    first, *rest = text.split(GAP)
    ids = tokenizer.encode(first).tolist()
    for gap, part in zip(cycle(gap_ids), rest, strict=False):
        ids += [gap, *tokenizer.encode(part).tolist()]
    return [tokenizer.bos_id, *ids, tokenizer.eos_id]


def forbidden_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that are never generated: all special tokens except <eos>."""
    return [special for special in tokenizer.special_ids if special != tokenizer.eos_id]


def check_gaps(text: str) -> None:
    """Check that a text has a gap.

    Raises:
        DataError: the text has no `<mask>`.
    """
    if GAP not in text:
        raise DataError(
            f"the text has no {GAP}", "a text with gaps for the model to fill", f"write {GAP} in the text"
        )


def check_length(n_tokens: int, model: Model) -> None:
    """Check that a text fits into the context of the model.

    Raises:
        DataError: the text is too long.
    """
    most = model.backbone.max_seq_len
    if n_tokens > most:
        raise DataError(
            f"the text has {n_tokens:,} tokens, including special tokens",
            f"at most {most:,}",
            "shorten the text",
        )
