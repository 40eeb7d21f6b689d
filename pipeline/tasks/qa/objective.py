"""The loss of extractive question answering: predict the first and last token of the answer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from modules.losses import span_loss
from modules.model import Model

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class SpanObjective:
    """The mean of the cross-entropies of the answer's first and last token.

    The end token of a window stands for no answer.

    Source: Devlin et al. 2019, "BERT", section 4.2.
    """

    def loss(self, model: Model, batch: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], int]:
        """Return the sum over windows in nats and the number of windows."""
        return _nats(model(batch), batch), len(batch["answer_span"])

    def metrics(self) -> "MetricCollection":
        """Return the loss and `accuracy`: the share of windows with both ends right."""
        from torchmetrics import MeanMetric, MetricCollection

        from modules.metrics import MeanLoss

        return MetricCollection({"loss": MeanLoss(), "accuracy": MeanMetric()})

    def update(self, metrics: "MetricCollection", model: Model, batch: Mapping[str, Tensor]) -> None:
        """Add a batch to the metrics."""
        logits = model(batch)
        right = (logits.argmax(dim=1) == batch["answer_span"]).all(dim=1).float().mean()
        n = len(logits)
        metrics.update(nats=_nats(logits, batch), n=n, value=right, weight=n)


def _nats(logits: Float[Tensor, "B T 2"], batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    starts, ends = batch["answer_span"].unbind(dim=1)
    return span_loss(logits, starts, ends)
