"""Text classification: one label, or any number of them, for a text or a pair of texts."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from pipeline.tasks.classify.inputs import check_texts, collated_inputs, encoded, places
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
from pipeline.tasks.inference import batch_outputs
from pipeline.tasks.scoring import Floats, Ints
from pipeline.tasks.showing import Showing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modules.lit_module import Objective

_SHOWN_CHARACTERS = 700
_CUT = " … "
_HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class TextClassification(FinetuneTask):
    """Choose among labels: `<bos> text <eos>`, or `<bos> text <sep> second text <eos>`.

    A text that is too long loses its end; of a pair the longer one does. `<eos>` is always kept: the last
    token of a causal backbone is the one that has seen all others.

    Args:
        label_names: names of the classes in the order of the model's outputs; None: all labels of the
            training rows, sorted. Where names are given, labels may be whole numbers: places in this list.
        multi_label: whether a row has any number of labels; learned from the training rows.
        pooling: which hidden state is classified; None: the last one of a Decoder, the mean of an Encoder's.
        class_weights: `balanced` lets every class count the same in the loss, however rare it is.
        dropout: of the pooled hidden state.
        threshold: probability from which on a label of several is given; None: the one with the best micro F1
            on the validation rows, and 0.5 until that is known.
        linear_baseline: whether a linear model is trained on the same rows too, for comparison: seconds.
        numbered_labels: learned: rows have places in `label_names` for labels.
        label_counts: learned: training rows that have each label.
        n_train_rows: learned: how many training rows there are.

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
        """Learn the labels' names and counts, and whether rows have lists of them; `check` judges them."""
        labels = [row.get("label") for row in rows]
        several = any(isinstance(label, list | tuple) for label in labels)
        names = collected_names(labels) if self.label_names is None else list(self.label_names)
        given = self.label_names is not None and not are_numbers(names)
        written = {label_text(one) for label in labels for one in labels_of(label)}
        numbered = given and bool(written) and all(map(is_place, written)) and written.isdisjoint(names)
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
        """Refuse texts that are none, labels that are missing or unknown, and training rows of one class.

        An empty text is allowed.

        Raises:
            DataError: the split, the row, and what is wrong.
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
        """The text, and the second one of a pair, where the training rows are pairs."""
        is_read = self.optional_read is None or "text_pair" in self.optional_read
        pair = row.get("text_pair") if is_read else None
        return [row["text"]] if pair is None else [row["text"], pair]

    def features(self, row: Row, tokenizer: Tokenizer, backbone: Transformer) -> list[Feature]:
        """One example a row; `class_labels` is the place of the label (1,), or 0 and 1 for each (C,)."""
        (ids,) = encoded([self.texts(row)], tokenizer, backbone.max_seq_len)
        labels = self._targets([row])[0].astype(np.int64)
        return [{"input_ids": ids, "class_labels": np.atleast_1d(labels)}]

    def collate(self, features: Sequence[Feature]) -> Batch:
        """`input_ids` and `attention_mask` (B, T); `class_labels` (B,), or (B, C) of 0 and 1."""
        labels = np.stack([feature["class_labels"] for feature in features])
        labels = labels if self.multi_label else labels[:, 0]
        return collated_inputs(features) | {"class_labels": torch.from_numpy(labels)}

    def head(self, backbone: Transformer) -> dict[str, Any]:
        """A classifier of as many classes as there are labels, pooled as it suits the backbone."""
        natural = "last" if isinstance(backbone, Decoder) else "mean"
        return {
            "_target_": "modules.heads.PooledClassifier",
            "d_model": backbone.d_model,
            "n_classes": len(self._table.names),
            "pooling": self.pooling or natural,
            "dropout": self.dropout,
        }

    def objective(self) -> "Objective":
        """Cross-entropy; with `class_weights` every class counts the same, and a row 1 in the mean."""
        from pipeline.tasks.classify.objective import MultiLabelObjective, SingleLabelObjective

        kind = MultiLabelObjective if self.multi_label else SingleLabelObjective
        if self.class_weights is None or self.label_counts is None:
            return kind()
        return kind.balanced(np.array(self.label_counts), self.n_train_rows)

    def predict(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> list[Prediction]:
        """The likeliest label, or all likely ones; `details` has the probability of each by name."""
        texts = [self.texts(row) for row in rows]
        ids = list(encoded(texts, tokenizer, model.backbone.max_seq_len))
        features = [{"input_ids": row} for row in ids]
        probabilities = np.zeros((len(rows), len(self._table.names)))
        for numbers, logits, _ in batch_outputs(model, features, collated_inputs, batch_size=batch_size):
            scores = logits.double()
            likely = scores.sigmoid() if self.multi_label else scores.softmax(dim=-1)
            probabilities[numbers] = likely.cpu().numpy()
        answer = self._several_labels if self.multi_label else self._one_label
        return [answer(line) for line in probabilities]

    def score(
        self, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = False
    ) -> dict[str, Score]:
        """accuracy, macro_f1, mcc, calibration_error; of lists of labels accuracy, micro_f1, macro_f1."""
        target, predicted = self._targets(rows), self._predicted(predictions)
        if self.multi_label:
            return metrics.multi_label_scores(target > 0, predicted > 0, intervals=intervals)
        return metrics.single_label_scores(
            target, predicted, _confidence(predictions), n_classes=len(self._table.names), intervals=intervals
        )

    def row_scores(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        """1 for the right label; of several, the share of yes-or-no decisions that are right."""
        right = self._targets(rows) == self._predicted(predictions)
        return np.asarray(right.mean(axis=1) if self.multi_label else right, np.float64)

    @property
    def n_classes(self) -> int:
        """The number of labels."""
        return len(self._table.names)

    def baselines(self, train: Sequence[Row], rows: Sequence[Row]) -> dict[str, Callable[[], Floats]]:
        """The commonest training label, and a linear model of words; not for several labels a row."""
        if self.multi_label:
            return {}
        labels, target = self._targets(train), self._targets(rows)

        def linear() -> Floats:
            texts, asked = ([self.texts(row) for row in some] for some in (train, rows))
            return np.asarray(baseline.linear(texts, labels, asked) == target, np.float64)

        def majority() -> Floats:
            return np.asarray(baseline.commonest(labels, len(rows)) == target, np.float64)

        return {"majority": majority} | ({"linear": linear} if self.linear_baseline else {})

    def needs_calibration(self, rows: Sequence[Row]) -> bool:
        """Where rows have several labels, and no threshold was given."""
        return self.multi_label and self.threshold is None

    def calibrated(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Self:
        """With the threshold of the best micro F1, for rows with several labels; one that was given stays."""
        if not predictions or not self.needs_calibration(rows):
            return self
        return replace(
            self, threshold=metrics.best_threshold(self._targets(rows) > 0, self._probabilities(predictions))
        )

    def sample(self, row: Row, prediction: Prediction) -> Sample:
        """The text, the label and how sure it is, and the true label."""
        predicted, target = self.labels(row, prediction)
        return Sample(
            given=_shortened(" / ".join(self.texts(row))),
            output=f"{predicted}{prediction.shown_confidence}",
            target=None if row.get("label") is None else target,
        )

    def labels(self, row: Row, prediction: Prediction) -> tuple[str, str]:
        """Names of labels; several are joined by commas."""
        places = [self._table.place(one) for one in labels_of(row.get("label"))]
        target = ", ".join(self._table.names[place] for place in places if place is not None)
        return prediction.text or "no label", target or "no label"

    def figures(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, "Figure"]:
        """`confusion_matrix` and `reliability`, of one label a row."""
        if self.multi_label:
            return {}
        target, predicted, confidence = (
            self._targets(rows),
            self._predicted(predictions),
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
        """The log-odds of each label that was given, or of the likeliest where none was."""
        limit, texts = model.backbone.max_seq_len, self.texts(row)
        (ids,) = encoded([texts], tokenizer, limit)
        shares = prediction.details["probabilities"]
        given = prediction.details.get("labels", [prediction.text]) or [max(shares, key=shares.__getitem__)]
        columns = (*self.inputs, *self.optional)[: len(texts)]
        return [
            Decision(
                about=f"label {name}",
                batch={"input_ids": torch.from_numpy(ids[None])},
                score=partial(log_odds, label=self._table.names.index(name), several=self.multi_label),
                places=places(dict(zip(columns, texts, strict=True)), tokenizer, limit),
            )
            for name in given
        ]

    @cached_property
    def _table(self) -> LabelTable:
        if self.label_names is None:
            raise ValueError(
                "label_names is None; expected names of the classes; call fit(), or set label_names"
            )
        return LabelTable(names=tuple(self.label_names), numbered=self.numbered_labels)

    def _targets(self, rows: Sequence[Row]) -> Ints:
        """Places of the labels (N,), or 0 and 1 for each label (N, C)."""
        if not self.multi_label:
            return np.array([self._table.place(row["label"]) for row in rows], np.int64)
        return self._indicators(labels_of(row["label"]) for row in rows)

    def _predicted(self, predictions: Sequence[Prediction]) -> Ints:
        """Return the same for predictions."""
        if not self.multi_label:
            places = {name: place for place, name in enumerate(self._table.names)}
            return np.array([places[prediction.text] for prediction in predictions], np.int64)
        chosen = self._probabilities(predictions) >= self._threshold
        return chosen.astype(np.int64)

    def _indicators(self, labels: Iterable[Sequence[Any]]) -> Ints:
        lines = [[self._table.place(one) for one in some] for some in labels]
        predicted = np.zeros((len(lines), len(self._table.names)), np.int64)
        for line, chosen in zip(predicted, lines, strict=True):
            line[[place for place in chosen if place is not None]] = 1
        return predicted

    def _probabilities(self, predictions: Sequence[Prediction]) -> Floats:
        return np.array([list(prediction.details["probabilities"].values()) for prediction in predictions])

    @property
    def _threshold(self) -> float:
        return _HALF if self.threshold is None else self.threshold

    def _one_label(self, probabilities: Floats) -> Prediction:
        names, best = self._table.names, int(probabilities.argmax())
        return Prediction(
            text=names[best],
            confidence=float(probabilities[best]),
            details={"probabilities": dict(zip(names, probabilities.tolist(), strict=True))},
        )

    def _several_labels(self, probabilities: Floats) -> Prediction:
        """Confidence is the probability that every yes and no is right, were they independent."""
        names, chosen = self._table.names, probabilities >= self._threshold
        labels = [name for name, yes in zip(names, chosen, strict=True) if yes]
        return Prediction(
            text=", ".join(labels),
            confidence=float(np.where(chosen, probabilities, 1 - probabilities).prod()),
            details={
                "labels": labels,
                "probabilities": dict(zip(names, probabilities.tolist(), strict=True)),
            },
        )


def log_odds(logits: Float[Tensor, "B C"], *, label: int, several: bool) -> Float[Tensor, " B"]:
    """log(p / (1 - p)) of a label: its logit, less that of all others together where labels are exclusive."""
    own = logits[:, label]
    if several:
        return own
    others = torch.cat((logits[:, :label], logits[:, label + 1 :]), dim=1)
    return own - others.logsumexp(dim=1)


def _confidence(predictions: Sequence[Prediction]) -> Floats:
    return np.array([prediction.confidence for prediction in predictions], np.float64)


def _shortened(text: str) -> str:
    """The beginning and the end of a long text: what decides may stand in either."""
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    kept = (_SHOWN_CHARACTERS - len(_CUT)) // 2
    return f"{text[:kept]}{_CUT}{text[-kept:]}"
