"""Text classification: one label, or any number of them, for a text or a pair of texts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from datamodules.collate import Batch
from datamodules.corpus.as_text import label_text
from datamodules.errors import DataError
from datamodules.tokenizer import Tokenizer
from modules.model import Model
from modules.transformer import Decoder, Encoder, Transformer
from pipeline.tasks.base import Sample
from pipeline.tasks.classify import baseline, figures, metrics
from pipeline.tasks.classify.inputs import check_texts, encoded, places
from pipeline.tasks.classify.label_encoder import LabelEncoder
from pipeline.tasks.classify.labels import (
    LabelTable,
    are_numbers,
    check_labels,
    collected_names,
    is_place,
    labels_of,
    listed,
)
from pipeline.tasks.explaining import Decision
from pipeline.tasks.finetuning import Feature, FinetuneTask, Prediction, Row, Score, each_of_rows
from pipeline.tasks.inference import batch_outputs, collate_inputs
from pipeline.tasks.scoring import Floats
from pipeline.tasks.showing import Showing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modules.lit_module import Objective

_SHOWN_CHARACTERS = 700
_CUT = " … "
_HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class TextClassification(FinetuneTask):
    """Assign labels to `<bos> text <eos>`, or to `<bos> text <sep> second text <eos>`.

    A text that is too long is truncated at the end; of a pair, the longer text. `<eos>` is always kept,
    because it is the only token of a causal backbone that attends to all others.

    Args:
        label_names: names of the classes in the order of the model's outputs; None: all labels of the
            training rows, sorted. If names are set, rows may contain indices into this list.
        multi_label: whether a row has any number of labels; learned from the training rows.
        pooling: which hidden state is classified; None: the last one of a Decoder, the mean of an Encoder's.
        class_weights: `balanced` gives every class the same weight in the loss, however rare it is.
        dropout: dropout of the pooled hidden state.
        threshold: the probability from which a label is assigned if there are several per row; None: the one
            with the best micro F1 on the validation rows, and 0.5 until it is known.
        linear_baseline: whether to train a linear model on the same rows for comparison, which takes seconds.
        numbered_labels: learned: whether rows contain indices into `label_names`.
        label_counts: learned: the number of training rows with each label.
        n_train_rows: learned: the number of training rows.

    Source: Devlin et al. 2019, "BERT", section 4.1; Radford et al. 2018, section 3.3 (Decoder).
    """

    label_names: list[str] | None = None
    multi_label: bool = False
    pooling: Literal["first", "mean", "last"] | None = None
    class_weights: Literal["balanced"] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    linear_baseline: bool = True
    numbered_labels: bool = False
    label_counts: list[int] | None = None
    n_train_rows: int = 0

    inputs: ClassVar[tuple[str, ...]] = ("text",)
    targets: ClassVar[tuple[str, ...]] = ("label",)
    optional: ClassVar[tuple[str, ...]] = ("text_pair",)
    metric: ClassVar[str] = "accuracy"
    hub_task: ClassVar[str | None] = "text-classification"
    baseline_titles: ClassVar[Mapping[str, str]] = {
        "majority": "majority label",
        "linear": "linear baseline (TF-IDF, logistic regression)",
    }
    backbones: ClassVar[tuple[type[Transformer], ...]] = (Decoder, Encoder)
    showing: ClassVar[Showing] = Showing(
        form="labels",
        title={"en": "Classify", "zh": "分类"},
        about={
            "en": "Reads a text and says which of the labels it has learned fits best.",
            "zh": "读一段文字，判断它属于哪个类别。",
        },
        columns={
            "text": {"en": "Text", "zh": "文本"},
            "text_pair": {"en": "Second text", "zh": "第二段文本"},
        },
        view="classify",
    )

    def fit(self, rows: Sequence[Row]) -> Self:
        """Learn the labels' names and counts, and whether a row may have several; `check` validates them."""
        labels = [row.get("label") for row in rows]
        several = any(isinstance(label, list | tuple) for label in labels)
        names = collected_names(labels) if self.label_names is None else list(self.label_names)
        are_named = self.label_names is not None and not are_numbers(names)
        written = {label_text(one) for label in labels for one in labels_of(label)}
        numbered = are_named and bool(written) and all(map(is_place, written)) and written.isdisjoint(names)
        table = LabelTable(names=tuple(names), numbered=numbered)
        counts = Counter(
            place for label in labels for place in {table.place(one) for one in labels_of(label)}
        )
        return replace(
            super().fit(rows),
            label_names=names,
            multi_label=self.multi_label or several,
            numbered_labels=numbered,
            label_counts=[counts[place] for place in range(len(names))],
            n_train_rows=len(rows),
        )

    def check(self, rows: Sequence[Row], split: str) -> None:
        """Check that texts are texts, labels are known, and training rows have at least two classes.

        Empty texts are allowed.

        Raises:
            DataError: names the split, the row, and what is wrong.
        """
        check_texts(rows, split)
        table = None if self.label_names is None else self._table
        check_labels(each_of_rows(rows, "label"), table, split)
        seen = [
            name
            for name, count in zip(self.label_names or [], self.label_counts or [], strict=False)
            if count
        ]
        if self.label_counts is not None and not self.multi_label and len(seen) < 2:
            raise DataError(
                f"all {self.n_train_rows:,} training rows have one label: {listed(seen)}",
                "rows of at least two classes",
                "check the label column, and that the rows are not a truncated sorted list",
            )

    def texts(self, row: Row) -> list[str]:
        """Return the text, followed by the second text if the training rows are pairs."""
        is_read = self.optional_read is None or "text_pair" in self.optional_read
        pair = row.get("text_pair") if is_read else None
        return [row["text"]] if pair is None else [row["text"], pair]

    def features(self, row: Row, tokenizer: Tokenizer, backbone: Transformer) -> list[Feature]:
        """Return one example; `class_labels` is the class index (1,), or an indicator of each class (C,)."""
        (ids,) = encoded([self.texts(row)], tokenizer, backbone.max_seq_len)
        labels = self._encoder.targets([row])[0].astype(np.int64)
        return [{"input_ids": ids, "class_labels": np.atleast_1d(labels)}]

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Return `input_ids` and `attention_mask` (B, T), and `class_labels` (B,), or indicators (B, C)."""
        labels = np.stack([feature["class_labels"] for feature in features])
        labels = labels if self.multi_label else labels[:, 0]
        return collate_inputs(features) | {"class_labels": torch.from_numpy(labels)}

    def head(self, backbone: Transformer) -> dict[str, Any]:
        """Return a classifier with one output per label and the pooling that suits the backbone."""
        default = "last" if isinstance(backbone, Decoder) else "mean"
        return {
            "_target_": "modules.heads.PooledClassifier",
            "d_model": backbone.d_model,
            "n_classes": len(self._table.names),
            "pooling": self.pooling or default,
            "dropout": self.dropout,
        }

    def objective(self) -> "Objective":
        """Return the cross-entropy; with `class_weights`, each class has the same total weight."""
        from pipeline.tasks.classify.objective import MultiLabelObjective, SingleLabelObjective

        kind = MultiLabelObjective if self.multi_label else SingleLabelObjective
        if self.class_weights is None or self.label_counts is None:
            return kind()
        return kind.balanced(np.array(self.label_counts), self.n_train_rows)

    def predict(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> list[Prediction]:
        """Predict the most likely label, or all likely ones; `details` has their probabilities by name."""
        texts = [self.texts(row) for row in rows]
        ids = list(encoded(texts, tokenizer, model.backbone.max_seq_len))
        features = [{"input_ids": row} for row in ids]
        probabilities = np.zeros((len(rows), len(self._table.names)))
        for numbers, logits, _ in batch_outputs(model, features, collate_inputs, batch_size=batch_size):
            scores = logits.double()
            likely = scores.sigmoid() if self.multi_label else scores.softmax(dim=-1)
            probabilities[numbers] = likely.cpu().numpy()
        return [self._encoder.prediction(line) for line in probabilities]

    def score(
        self, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = False
    ) -> dict[str, Score]:
        """Return accuracy, macro F1, MCC and calibration error; for several labels accuracy and both F1."""
        target, predicted = self._encoder.targets(rows), self._encoder.predicted(predictions)
        if self.multi_label:
            return metrics.multi_label_scores(target > 0, predicted > 0, intervals=intervals)
        return metrics.single_label_scores(
            target, predicted, _confidence(predictions), n_classes=len(self._table.names), intervals=intervals
        )

    def row_scores(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        """Return 1 for a correct label; with several labels, the share of correct binary decisions."""
        right = self._encoder.targets(rows) == self._encoder.predicted(predictions)
        return np.asarray(right.mean(axis=1) if self.multi_label else right, np.float64)

    @property
    def n_classes(self) -> int:
        """The number of labels."""
        return len(self._table.names)

    def baselines(self, train: Sequence[Row], rows: Sequence[Row]) -> dict[str, Callable[[], Floats]]:
        """Return the most frequent label and a linear model on words; nothing if rows have several labels."""
        if self.multi_label:
            return {}
        labels, target = self._encoder.targets(train), self._encoder.targets(rows)

        def linear() -> Floats:
            texts, inputs = ([self.texts(row) for row in some] for some in (train, rows))
            return np.asarray(baseline.linear(texts, labels, inputs) == target, np.float64)

        def majority() -> Floats:
            return np.asarray(baseline.commonest(labels, len(rows)) == target, np.float64)

        return {"majority": majority} | ({"linear": linear} if self.linear_baseline else {})

    def needs_calibration(self, rows: Sequence[Row]) -> bool:
        """Return whether rows have several labels and no threshold is set."""
        return self.multi_label and self.threshold is None

    def calibrated(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Self:
        """Return the task with the threshold of the best micro F1, if one is needed and not set."""
        if not predictions or not self.needs_calibration(rows):
            return self
        return replace(
            self,
            threshold=metrics.best_threshold(
                self._encoder.targets(rows) > 0, self._encoder.probabilities(predictions)
            ),
        )

    def sample(self, row: Row, prediction: Prediction) -> Sample:
        """Return the text, the predicted label with its confidence, and the target label."""
        predicted, target = self.labels(row, prediction)
        return Sample(
            input=_shortened(" / ".join(self.texts(row))),
            output=f"{predicted}{prediction.shown_confidence}",
            target=None if row.get("label") is None else target,
        )

    def labels(self, row: Row, prediction: Prediction) -> tuple[str, str]:
        """Return the names of the predicted and the target labels, separated by commas."""
        places = [self._table.place(one) for one in labels_of(row.get("label"))]
        target = ", ".join(self._table.names[place] for place in places if place is not None)
        return prediction.text or "no label", target or "no label"

    def figures(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, "Figure"]:
        """Return `confusion_matrix` and `reliability`; nothing if rows have several labels."""
        if self.multi_label:
            return {}
        target, predicted, confidence = (
            self._encoder.targets(rows),
            self._encoder.predicted(predictions),
            _confidence(predictions),
        )
        error = metrics.calibration_error(confidence, target == predicted, intervals=False).value
        return {
            "confusion_matrix": figures.confusion_figure(target, predicted, self._table.names),
            "reliability": figures.reliability_figure(confidence, target == predicted, error=error),
        }

    def decisions(
        self, model: Model, tokenizer: Tokenizer, row: Row, prediction: Prediction
    ) -> list[Decision]:
        """Return the log-odds of each predicted label, or of the most likely one if none was predicted."""
        limit, texts = model.backbone.max_seq_len, self.texts(row)
        (ids,) = encoded([texts], tokenizer, limit)
        likely = prediction.details["probabilities"]
        predicted = prediction.details.get("labels", [prediction.text]) or [
            max(likely, key=likely.__getitem__)
        ]
        columns = (*self.inputs, *self.optional)[: len(texts)]
        return [
            Decision(
                about=f"label {name}",
                batch={"input_ids": torch.from_numpy(ids[None])},
                score=partial(log_odds, label=self._table.names.index(name), several=self.multi_label),
                places=places(dict(zip(columns, texts, strict=True)), tokenizer, limit),
            )
            for name in predicted
        ]

    @cached_property
    def _table(self) -> LabelTable:
        if self.label_names is None:
            raise ValueError(
                "label_names is None; expected names of the classes; call fit(), or set label_names"
            )
        return LabelTable(names=tuple(self.label_names), numbered=self.numbered_labels)

    @cached_property
    def _encoder(self) -> LabelEncoder:
        threshold = _HALF if self.threshold is None else self.threshold
        return LabelEncoder(table=self._table, multi_label=self.multi_label, threshold=threshold)


def log_odds(logits: Float[Tensor, "B C"], *, label: int, several: bool) -> Float[Tensor, " B"]:
    """Return log(p / (1 - p)) of a label: its logit, minus that of all others if labels are exclusive."""
    own = logits[:, label]
    if several:
        return own
    others = torch.cat((logits[:, :label], logits[:, label + 1 :]), dim=1)
    return own - others.logsumexp(dim=1)


def _confidence(predictions: Sequence[Prediction]) -> Floats:
    return np.array([prediction.confidence for prediction in predictions], np.float64)


def _shortened(text: str) -> str:
    """Cut the middle of a long text: what decides may be at either end."""
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    kept = (_SHOWN_CHARACTERS - len(_CUT)) // 2
    return f"{text[:kept]}{_CUT}{text[-kept:]}"
