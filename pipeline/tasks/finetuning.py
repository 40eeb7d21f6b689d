"""The interface of a fine-tuning task: how labelled rows become features and batches, the loss, and how
predictions are made and scored.

A task holds its options and what it has learned from the training rows, such as the names of labels. It holds
no weights, files or optimizer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from datamodules.collate import Batch
from datamodules.corpus import Columns
from datamodules.errors import DataError
from datamodules.tokenizer import Tokenizer
from modules.model import Model
from modules.transformer import Transformer
from pipeline.tasks.base import Sample
from pipeline.tasks.explaining import Decision
from pipeline.tasks.showing import Showing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modules.lit_module import Objective

Row = Mapping[str, Any]


class SplitRows(list[Any]):
    """Rows of a split, or one value of each, with the row numbers of their file, counted from 1."""

    def __init__(self, rows: Iterable[Any], numbers: Sequence[int]) -> None:
        super().__init__(rows)
        self.numbers = numbers


def number_of(rows: Sequence[Any], place: int) -> int:
    """Return the row number for an error message: that of the row's file if known, else the index plus 1."""
    return rows.numbers[place] if isinstance(rows, SplitRows) else place + 1


def each_of_rows(rows: Sequence[Row], column: str) -> Sequence[Any]:
    """Return the values of a column, with the same row numbers."""
    return SplitRows((row.get(column) for row in rows), [number_of(rows, i) for i in range(len(rows))])


#: One unpadded training example: integer arrays by name, `input_ids` among them.
Feature = dict[str, npt.NDArray[np.int64]]

#: Why the generation of a text ended.
FinishReason = Literal["stop", "length", "empty_source"]
_REMARKS = {"length": "cut at the maximum length", "empty_source": "empty input"}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction of a model for one row.

    Args:
        text: the prediction as a person reads it.
        confidence: a probability, where the task defines one.
        details: further plain values; `make predict-TASK` writes them unchanged.
    """

    text: str
    confidence: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """A remark in brackets about how the text ended; empty if it ended normally."""
        remark = _REMARKS.get(self.details.get("finish_reason", ""))
        return f" [{remark}]" if remark else ""

    @property
    def shown_confidence(self) -> str:
        """The confidence in brackets; empty if there is none."""
        return "" if self.confidence is None else f" ({self.confidence:.2f})"


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric over rows, with its 95 % confidence interval if it was requested and exists."""

    value: float
    low: float | None = None
    high: float | None = None
    n_rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class FinetuneTask(ABC):
    """A task that is learned from labelled rows; each task is one class and one yaml file.

    A subclass must define the class attributes without a default and `features`, `collate`, `head`,
    `objective`, `predict` and `score`. The other methods have defaults that suit a task whose inputs are
    columns of text.

    Args:
        optional_read: learned: which of the `optional` columns the training rows have; rows to be
            predicted must then have them too. None: unknown, as in bundles of earlier versions.

    Class attributes:
        inputs: columns that a row needs for a prediction.
        targets: further columns that it needs for training and scoring.
        optional: columns that are read if a row has them.
        metric: the score that selects the best bundle and stops training early.
        higher_is_better: whether a higher score is better.
        backbones: supported architectures; the one whose pretraining helps most comes first.
        baseline_titles: for people, the name of each of `baselines`.
        keeps_head: whether the task trains the head that the model was pretrained with.
        least_steps: training steps for a small data set if the user gives no number.
        hub_task: the task by the word of model hubs, such as `text-classification`; None: they have none.
        endpoint: the last word of the address at which a server answers, /v1/ENDPOINT; None: the task's name.
        input_types: types of the columns that are read and are no text, for what a server is sent.
        showing: how a page shows the task to a person who tries it.
    """

    optional_read: list[str] | None = None

    inputs: ClassVar[tuple[str, ...]]
    targets: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    backbones: ClassVar[tuple[type[Transformer], ...]]
    baseline_titles: ClassVar[Mapping[str, str]] = {}
    keeps_head: ClassVar[bool] = False
    least_steps: ClassVar[int] = 600
    endpoint: ClassVar[str | None] = None
    hub_task: ClassVar[str | None] = None
    input_types: ClassVar[Mapping[str, Any]] = {}
    showing: ClassVar[Showing] = Showing()

    def architecture(self, backbone: type[Transformer]) -> type[Transformer]:
        """Return the architecture that a bundle's backbone is loaded as; its weights are unchanged."""
        return backbone

    @property
    def backbone_options(self) -> dict[str, Any]:
        """Backbone options that the task needs, whatever the backbone was pretrained with."""
        return {}

    @property
    def columns(self) -> Columns:
        """The columns that are read from a corpus."""
        return Columns((*self.inputs, *self.targets), self.optional)

    @property
    def input_columns(self) -> Columns:
        """The columns that are read from rows to be predicted."""
        if self.optional_read is None:
            return Columns(self.inputs, self.optional)
        return Columns((*self.inputs, *self.optional_read))

    @property
    def example_row(self) -> Row:
        """An example of a row to predict."""
        return dict.fromkeys(self.input_columns.required, "Frieda the gardener has a yellow lantern.")

    @property
    def input_languages(self) -> Mapping[str, Sequence[str]]:
        """The languages that may be named in input columns which are not free text."""
        return {}

    def shown_input(self, row: Row) -> Row:
        """Return the columns of a labelled row that are read for a prediction."""
        read = self.input_columns
        return {name: row[name] for name in (*read.required, *read.optional) if row.get(name) is not None}

    @property
    def scored_columns(self) -> Columns:
        """The columns that are read from rows to be predicted and scored."""
        inputs = self.input_columns
        return Columns((*inputs.required, *self.targets), inputs.optional)

    def fit(self, rows: Sequence[Row]) -> Self:
        """Return the task with what it learns from the training rows, such as the names of labels."""
        read = [name for name in self.optional if any(row.get(name) is not None for row in rows)]
        return replace(self, optional_read=read)

    def check(self, rows: Sequence[Row], split: str) -> None:
        """Check that rows can be used for training or scoring; by default, that the inputs are texts.

        Raises:
            DataError: the split, the row, what is wrong with it, and how to fix it.
        """
        for number, row in enumerate(rows):
            for column in self.inputs:
                check_text(row.get(column), f"row {number_of(rows, number)} of {split}: {column}")

    def texts(self, row: Row) -> list[str]:
        """Return the texts of a row on which a tokenizer is trained if there is no pretrained one."""
        return [str(row[column]) for column in self.inputs]

    @property
    def vocabularies(self) -> dict[tuple[str, ...], Callable[[Row], list[str]]]:
        """The texts on which each tokenizer is trained, by columns: one for all, or one for each side."""
        return {(*self.inputs, *self.targets): self.texts}

    @abstractmethod
    def features(self, row: Row, tokenizer: Tokenizer, backbone: Transformer) -> list[Feature]:
        """Return the row as training examples (one, or several windows) that fit the backbone's context."""

    @abstractmethod
    def collate(self, features: Sequence[Feature]) -> Batch:
        """Pad features and stack them into a batch."""

    @abstractmethod
    def head(self, backbone: Transformer) -> dict[str, Any]:
        """Return the head as a node of `model.json`: its `_target_` and options."""

    @abstractmethod
    def objective(self) -> "Objective":
        """Return the loss and the metrics of a batch; `LossOnly` is enough for most tasks."""

    @abstractmethod
    def predict(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> list[Prediction]:
        """Return a prediction for each row, in order; targets are neither read nor required."""

    @abstractmethod
    def score(
        self, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = False
    ) -> dict[str, Score]:
        """Return metrics over all rows by name; `self.metric` is one of them."""

    def row_scores(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        """Return the quality (N,) of each prediction from 0 to 1; by default the metric of each row alone."""
        pairs = zip(predictions, rows, strict=True)
        return np.array([self.score([one], [row])[self.metric].value for one, row in pairs], np.float64)

    @property
    def n_classes(self) -> int:
        """The number of classes to choose from; 0 if the prediction is free text."""
        return 0

    def baselines(
        self, train: Sequence[Row], rows: Sequence[Row]
    ) -> dict[str, Callable[[], npt.NDArray[np.float64]]]:
        """Return functions, by name, that compute the `row_scores` of simpler models on `rows`."""
        return {}

    def notes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, str]:
        """Return notes, by metric, on how it was computed, if that matters for comparisons."""
        return {}

    def cautions(self, predictions: Sequence[Prediction]) -> list[str]:
        """Return warnings about the predictions, each a clause with the number of rows concerned."""
        return []

    def fast(self) -> Self:
        """Return the task with options that make predictions fast during training, such as greedy search."""
        return self

    def needs_calibration(self, rows: Sequence[Row]) -> bool:
        """Return whether `calibrated` would choose an option on these validation rows."""
        return False

    def calibrated(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Self:
        """Return the task with options chosen on validation rows after training, such as a threshold."""
        return self

    def sample(self, row: Row, prediction: Prediction) -> Sample:
        """Return a prediction with its inputs and, if the row has one, its target, as texts to display."""
        target = row.get(self.targets[0]) if self.targets else None
        return Sample(
            input=" / ".join(self.texts(row)),
            output=f"{prediction.text}{prediction.shown_confidence}{prediction.remark}",
            target=None if target is None else str(target),
        )

    def labels(self, row: Row, prediction: Prediction) -> tuple[str, str] | None:
        """Return the predicted and the target label if both are class names, which reveal no corpus text."""
        return None

    def figures(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, "Figure"]:
        """Return plots, keyed by file name without extension."""
        return {}

    def decisions(
        self, model: Model, tokenizer: Tokenizer, row: Row, prediction: Prediction
    ) -> list[Decision]:
        """Return the scores that decided a prediction, to be attributed to words; none by default."""
        return []

    def as_text(self, row: Row) -> Row:
        """Return the row with its inputs as texts, to which the characters in `decisions` refer."""
        return row

    def writing(self, model: Model, tokenizer: Tokenizer, row: Row) -> Feature | None:
        """Return the row with the generated text as labels; None if the task generates none."""
        return None

    @property
    def questions(self) -> tuple[str, ...]:
        """The prompts of `make try-TASK`: by default one for each input column."""
        return self.input_columns.required

    def row_from_input(self, typed: Sequence[str], history: Sequence[tuple[Row, Prediction]]) -> Row:
        """Return the row that was typed in the terminal, one text for each of `questions`.

        An empty text repeats the previous one.
        """
        last = history[-1][0] if history else {}
        return {name: text or last.get(name, "") for name, text in zip(self.questions, typed, strict=True)}


def type_words(value: Any) -> str:
    """Describe an invalid value in an error message: `missing`, or `of type NAME`."""
    return "missing" if value is None else f"of type {type(value).__name__}"


def check_text(value: Any, what: str, *, empty: bool = False) -> None:
    """Check that a value is text and, unless `empty`, not only white space.

    Raises:
        DataError: says what the value is, and how to fix it.
    """
    if not isinstance(value, str):
        raise DataError(
            f"{what} is {type_words(value)}", "text", "correct or leave out the row, or map another column"
        )
    if not empty and not value.strip():
        raise DataError(f"{what} is empty", "text", "leave out the row, or map another column")
