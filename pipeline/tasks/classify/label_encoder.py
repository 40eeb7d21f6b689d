"""Labels and predictions as arrays of class indices or indicators, and probabilities as predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.tasks.classify.labels import LabelTable, labels_of
from pipeline.tasks.finetuning import Prediction, Row
from pipeline.tasks.scoring import Floats, Ints


@dataclass(frozen=True, kw_only=True)
class LabelEncoder:
    """Converts the labels of rows and predictions to arrays, and probabilities to predictions.

    Args:
        table: the names of the C classes.
        multi_label: whether a row has any number of labels.
        threshold: the probability from which a label is assigned, if there are several per row.
    """

    table: LabelTable
    multi_label: bool
    threshold: float

    def targets(self, rows: Sequence[Row]) -> Ints:
        """Return the class indices of the labels (N,), or an indicator of each label (N, C)."""
        if not self.multi_label:
            return np.array([self.table.place(row["label"]) for row in rows], np.int64)
        indicators = np.zeros((len(rows), len(self.table.names)), np.int64)
        for line, row in zip(indicators, rows, strict=True):
            indices = [self.table.place(label) for label in labels_of(row["label"])]
            line[[index for index in indices if index is not None]] = 1
        return indicators

    def predicted(self, predictions: Sequence[Prediction]) -> Ints:
        """Return the predicted class indices (N,), or an indicator of each label (N, C)."""
        if not self.multi_label:
            indices = {name: index for index, name in enumerate(self.table.names)}
            return np.array([indices[prediction.text] for prediction in predictions], np.int64)
        return (self.probabilities(predictions) >= self.threshold).astype(np.int64)

    def probabilities(self, predictions: Sequence[Prediction]) -> Floats:
        """Return the probability of each class (N, C)."""
        return np.array([list(prediction.details["probabilities"].values()) for prediction in predictions])

    def prediction(self, probabilities: Floats) -> Prediction:
        """Return the prediction for a row from the probability of each class (C,).

        With several labels per row, the confidence is the probability that all binary decisions are right,
        if they are independent.
        """
        names = self.table.names
        by_name = dict(zip(names, probabilities.tolist(), strict=True))
        if not self.multi_label:
            best = int(probabilities.argmax())
            return Prediction(
                text=names[best], confidence=float(probabilities[best]), details={"probabilities": by_name}
            )
        chosen = probabilities >= self.threshold
        labels = [name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen]
        return Prediction(
            text=", ".join(labels),
            confidence=float(np.where(chosen, probabilities, 1 - probabilities).prod()),
            details={"labels": labels, "probabilities": by_name},
        )
