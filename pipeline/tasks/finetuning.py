"""What a fine-tuning task is: how labelled rows become features and batches, what is minimised, how a model
is asked, and how its answers are scored.

A task holds options, and what it has learnt of the training rows (such as the names of labels): no weights,
no files, no optimizer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from datamodules.collate import Batch
from datamodules.corpus import Columns
from datamodules.tokenizer import Tokenizer
from modules.model import Model
from modules.transformer import Transformer
from pipeline.tasks.base import Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modules.lit_module import Objective

Row = Mapping[str, Any]


class SplitRows(list[Any]):
    """The rows of a split, or something of each, with the numbers that rows have in their file, from 1."""

    def __init__(self, rows: Iterable[Any], numbers: Sequence[int]) -> None:
        super().__init__(rows)
        self.numbers = numbers


def number_of(rows: Sequence[Any], place: int) -> int:
    """The number of a row for people: that of the file, where it is known."""
    return rows.numbers[place] if isinstance(rows, SplitRows) else place + 1


def each_of_rows(rows: Sequence[Row], column: str) -> Sequence[Any]:
    """What each row has in a column, with the same numbers."""
    return SplitRows((row.get(column) for row in rows), [number_of(rows, i) for i in range(len(rows))])


#: An example as a model reads it: unpadded integers by name. `input_ids` is always there.
Feature = dict[str, npt.NDArray[np.int64]]


#: Why the writing of a text ended.
FinishReason = Literal["stop", "length", "empty_source"]
_REMARKS = {"length": "cut at the longest length", "empty_source": "nothing to answer"}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model makes of one row: the text that a person reads, how sure it is, and what else is known.

    `details` are plain values, which `make predict-TASK` writes as they are.
    """

    text: str
    confidence: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """What a reader of the text must know of it, in brackets; mostly nothing."""
        remark = _REMARKS.get(self.details.get("finish_reason", ""))
        return f" [{remark}]" if remark else ""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric over rows, with its 95 % confidence interval where one was asked for and there is one."""

    value: float
    low: float | None = None
    high: float | None = None
    n_rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class FinetuneTask(ABC):
    """A way to learn from labelled rows; one class and one yaml a task.

    Args:
        optional_read: learnt: which of the `optional` columns the training rows have; a row must have these
            to be answered. None: not known, as in bundles of earlier versions.

    Class attributes:
        inputs: columns that a row must have to be answered.
        truths: further columns that it must have to be learnt from and scored.
        optional: columns that are read where a row has them.
        metric: the score that chooses the best bundle and ends training early.
        higher_is_better: whether more of it is better.
        backbones: the architectures that it can start from, the one whose pretraining helps most first.
            least_steps: steps of training that few rows get too, where nobody says how many.
    """

    optional_read: list[str] | None = None

    inputs: ClassVar[tuple[str, ...]]
    truths: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    backbones: ClassVar[tuple[type[Transformer], ...]]
    least_steps: ClassVar[int] = 600

    def arrangement(self, backbone: type[Transformer]) -> type[Transformer]:
        """How the backbone of a bundle is arranged for the task; its weights stay what they are."""
        return backbone

    @property
    def backbone_options(self) -> dict[str, Any]:
        """Options of the backbone that the task needs, whatever it was pretrained with."""
        return {}

    @property
    def columns(self) -> Columns:
        """What is read of a corpus."""
        return Columns((*self.inputs, *self.truths), self.optional)

    @property
    def asked_columns(self) -> Columns:
        """What is read of rows to be answered."""
        if self.optional_read is None:
            return Columns(self.inputs, self.optional)
        return Columns((*self.inputs, *self.optional_read))

    @property
    def scored_columns(self) -> Columns:
        """What is read of rows to be answered and scored."""
        asked = self.asked_columns
        return Columns((*asked.required, *self.truths), asked.optional)

    def fitted(self, rows: Sequence[Row]) -> Self:
        """The task with what it must know of the training rows before training, such as the labels' names."""
        read = [name for name in self.optional if any(row.get(name) is not None for row in rows)]
        return replace(self, optional_read=read)

    @abstractmethod
    def check(self, rows: Sequence[Row], split: str) -> None:
        """Refuse rows that cannot be learnt from or scored.

        Raises:
            DataError: which row of which split, what is wrong with it, and what to do.
        """

    @abstractmethod
    def texts(self, row: Row) -> list[str]:
        """All texts of a row: what a tokenizer is trained on when there is no pretrained one."""

    @property
    def vocabularies(self) -> dict[tuple[str, ...], Callable[[Row], list[str]]]:
        """One for all columns, or one for each side: the columns of each, and their texts in a row."""
        return {(*self.inputs, *self.truths): self.texts}

    @abstractmethod
    def features(self, row: Row, tokenizer: Tokenizer, backbone: Transformer) -> list[Feature]:
        """The row as training examples (one, or several windows); never longer than the backbone reads."""

    @abstractmethod
    def collate(self, features: Sequence[Feature]) -> Batch:
        """Pad features to a batch."""

    @abstractmethod
    def head(self, backbone: Transformer) -> dict[str, Any]:
        """The head as a node of `model.json`: its `_target_` and options."""

    @abstractmethod
    def objective(self) -> "Objective":
        """What is minimised and what is measured batch by batch: the loss at least."""

    @abstractmethod
    def predict(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> list[Prediction]:
        """Answer every row, in order; the truths are not looked at, and need not be there."""

    @abstractmethod
    def score(
        self, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = False
    ) -> dict[str, Score]:
        """Metrics by plain name over all rows; `self.metric` is one of them."""

    @abstractmethod
    def row_scores(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        """How good each answer is, from 0 to 1 (N,): 1 for a right one."""

    @property
    def n_classes(self) -> int:
        """How many answers there are to choose from; 0 where any text may be one."""
        return 0

    def baselines(
        self, train: Sequence[Row], rows: Sequence[Row]
    ) -> dict[str, Callable[[], npt.NDArray[np.float64]]]:
        """By name, what simpler models score on `rows`, as `row_scores`; each is made when it is called."""
        return {}

    def notes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, str]:
        """What must be known to compare the metrics, by metric: how they were computed."""
        return {}

    def cautions(self, predictions: Sequence[Prediction]) -> list[str]:
        """What is wrong with some of the answers, each as a clause with its number of rows."""
        return []

    def quick(self) -> Self:
        """The task as it answers during training, where time counts: such as without beams."""
        return self

    def needs_tuning(self, rows: Sequence[Row]) -> bool:
        """Whether something is to be chosen on these validation rows, with the model's answers to them."""
        return False

    def tuned(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Self:
        """The task with what is chosen on validation rows after training, such as a threshold."""
        return self

    @abstractmethod
    def sample(self, row: Row, prediction: Prediction) -> Sample:
        """A prediction beside its row, and beside the truth where the row has it."""

    def labels(self, row: Row, prediction: Prediction) -> tuple[str, str] | None:
        """The label given and the true one, where both are names of classes and so no text of the corpus."""
        return None

    def figures(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, "Figure"]:
        """Plots by file name without ending, for people who would rather look than read."""
        return {}

    @abstractmethod
    def asked(self, typed: Sequence[str], history: Sequence[tuple[Row, Prediction]]) -> Row:
        """The row of a person at the terminal, who has typed one text for each of `questions`."""

    @property
    @abstractmethod
    def questions(self) -> tuple[str, ...]:
        """What a person at the terminal is asked for; an empty answer repeats the last one."""
