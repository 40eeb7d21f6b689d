"""The loss of a tagger: cross-entropy of the tag at the first token of each word."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from datamodules.corruption import IGNORE
from modules.model import Model
from pipeline.tasks.base import LossOnly


class TagObjective(LossOnly):
    """The cross-entropy of the tag of each word."""

    def loss(self, model: Model, batch: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], int]:
        """Return the sum over words in nats, and the number of words."""
        logits, labels = model(batch).flatten(0, 1), batch["labels"].flatten()
        nats = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        return nats, len(batch["label_index"])
