"""Losses of a classifier: cross-entropy of one label per row, or binary cross-entropy of each label."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from modules.losses import balanced_weights
from modules.model import Model
from pipeline.tasks.base import LossOnly
from pipeline.tasks.scoring import Floats, Ints


class SingleLabelObjective(LossOnly):
    """Cross-entropy of the class of each row.

    Args:
        weights: the weight of a row of each class (C,); 1 by default. The mean over the training rows should
            be 1, because the loss is divided by the number of rows and not by the sum of weights.
    """

    def __init__(self, *, weights: Floats | None = None) -> None:
        self._weights = None if weights is None else torch.from_numpy(weights).float()

    @classmethod
    def balanced(cls, label_counts: Ints, n_rows: int) -> "SingleLabelObjective":
        """Weight the classes equally, given their numbers of training rows (C,); empty classes weigh nothing.

        Equal to `sklearn.utils.class_weight.compute_class_weight("balanced")`.
        """
        weights, present = np.zeros(len(label_counts)), label_counts > 0
        weights[present] = balanced_weights(torch.from_numpy(label_counts[present])).numpy()
        return cls(weights=weights)

    def loss(self, model: Model, batch: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], int]:
        """Return the weighted sum over rows and the number of rows."""
        logits, labels = model(batch).float(), batch["class_labels"]
        if self._weights is not None and self._weights.device != logits.device:
            self._weights = self._weights.to(logits.device)
        return F.cross_entropy(logits, labels, weight=self._weights, reduction="sum"), len(labels)


class MultiLabelObjective(LossOnly):
    """Binary cross-entropy of each label of each row.

    Args:
        weights: the weight of a row with the label (first row) and of one without it (second row), (2, C);
            1 by default.
    """

    def __init__(self, *, weights: Floats | None = None) -> None:
        self._weights = None if weights is None else torch.from_numpy(weights).float()

    @classmethod
    def balanced(cls, label_counts: Ints, n_rows: int) -> "MultiLabelObjective":
        """Weight rows with a label, given their numbers (C,), as much as those without it."""
        counts = np.stack((label_counts, n_rows - label_counts))
        return cls(weights=n_rows / (2 * np.maximum(counts, 1)))

    def loss(self, model: Model, batch: Mapping[str, Tensor]) -> tuple[Float[Tensor, ""], int]:
        """Return the weighted sum over rows and labels, and the number of binary decisions."""
        logits, labels = model(batch).float(), batch["class_labels"].float()
        weights = None
        if self._weights is not None:
            if self._weights.device != logits.device:
                self._weights = self._weights.to(logits.device)
            weights = torch.where(labels > 0, self._weights[0], self._weights[1])
        nats = F.binary_cross_entropy_with_logits(logits, labels, weight=weights, reduction="sum")
        return nats, labels.numel()
