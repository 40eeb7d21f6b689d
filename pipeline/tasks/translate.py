"""Translation: a text in one language, written in another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from datamodules.corpus import Columns
from datamodules.errors import DataError
from datamodules.tokenizer import Tokenizer
from modules.model import Model
from pipeline.tasks.finetuning import Prediction, Row, Score, check_text, number_of
from pipeline.tasks.scripts import BleuTokenizer, bleu_tokenizer
from pipeline.tasks.showing import Showing
from pipeline.tasks.text_scores import bleu_of, chrf, corpus_score, row_chrf, signature
from pipeline.tasks.text_to_text import TextToText


@dataclass(frozen=True, kw_only=True)
class Translation(TextToText):
    """Generate the translation `target` of `source`.

    If rows have a `target_language`, the source is prefixed with its name ("de: "), so that one model can
    translate into several languages. Scores are those of sacrebleu, from 0 to 100: `bleu` and `chrf`. With
    several languages each has its own too (`bleu_de`), and `bleu` and `chrf` are their means.

    Args:
        target_languages: learned: the languages of the training rows; None: unknown, as in bundles of
            earlier versions. A row must name its language unless there is only one.
    """

    target_languages: list[str] | None = None

    inputs: ClassVar[tuple[str, ...]] = ("source",)
    targets: ClassVar[tuple[str, ...]] = ("target",)
    optional: ClassVar[tuple[str, ...]] = ("target_language",)
    metric: ClassVar[str] = "bleu"
    hub_task: ClassVar[str | None] = "translation"
    least_steps: ClassVar[int] = 1500
    showing: ClassVar[Showing] = Showing(
        title={"en": "Translate", "zh": "翻译"},
        about={
            "en": "Translates a text into another language.",
            "zh": "把一段文字译成另一种语言。",
        },
        columns={
            "source": {"en": "Text", "zh": "原文"},
            "target_language": {"en": "Into", "zh": "译成"},
        },
        view="translate",
    )

    @property
    def input_columns(self) -> Columns:
        """The source, and the target language: required if there are several, optional otherwise."""
        columns = super().input_columns
        if self.target_languages is None or len(self.target_languages) > 1:
            return columns
        return Columns(self.inputs, self.optional)

    @property
    def example_row(self) -> Row:
        """An example sentence, with the first of the target languages."""
        row = dict(super().example_row)
        return row | {"target_language": self.target_languages[0]} if self.target_languages else row

    @property
    def input_languages(self) -> Mapping[str, Sequence[str]]:
        """The target languages of the training rows."""
        return {"target_language": self.target_languages} if self.target_languages else {}

    def fit(self, rows: Sequence[Row]) -> Self:
        """Learn the target languages."""
        names = {row.get("target_language") for row in rows} - {None}
        return replace(super().fit(rows), target_languages=sorted(map(str, names)))

    def check(self, rows: Sequence[Row], split: str) -> None:
        """Check sources, targets, and that all rows or none have a target language known from training."""
        super().check(rows, split)
        self.check_languages(rows, lambda number: f"row {number_of(rows, number)} of {split}")
        for number, row in enumerate(rows):
            name = row.get("target_language")
            if name is not None:
                check_text(name, f"row {number_of(rows, number)} of {split}: target_language")
            if (name is None) != (rows[0].get("target_language") is None):
                raise DataError(
                    f"row {number_of(rows, number)} of {split}: target_language is {name!r}",
                    f"a language in every row or in none (row 1 has {'none' if name else 'one'})",
                    "add the language, or leave out the column",
                )

    def check_languages(self, rows: Sequence[Row], place: Callable[[int], str]) -> None:
        """Check that target languages occur in training, and that none is missing if there are several.

        Raises:
            DataError: names the row and the known languages.
        """
        if (known := self.target_languages) is None:
            return
        for number, row in enumerate(rows):
            name = row.get("target_language")
            if name in known or (name is None and len(known) < 2):
                continue
            raise DataError(
                f"{place(number)}: target_language is {'missing' if name is None else repr(name)}",
                f"a language of the training rows: {', '.join(map(repr, known)) or 'there are none'}",
                "name one of these" if known else "leave out target_language",
            )

    def source(self, row: Row) -> str:
        """Return the text, prefixed with the target language."""
        name, text = row.get("target_language"), str(row["source"])
        if name is None and self.target_languages is not None and len(self.target_languages) == 1:
            (name,) = self.target_languages
        return f"{name}: {text}" if name else text

    def predict(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> list[Prediction]:
        """Return the best output of a beam search.

        Raises:
            DataError: a source is not text, or its target language does not occur in training.
        """
        self.check_languages(rows, lambda number: f"row {number + 1}")
        return super().predict(model, tokenizer, rows, batch_size=batch_size)

    def references(self, row: Row) -> list[str]:
        """Return the translation, or nothing if there is none."""
        return [] if row.get("target") is None else [str(row["target"])]

    def score(
        self, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = False
    ) -> dict[str, Score]:
        """Return sacrebleu's BLEU and chrF2 over the corpus, for each language and as their means."""
        answers = [prediction.text for prediction in predictions]
        targets, names = _targets(rows), _languages(rows)
        tokenizers = _tokenizers(targets, names)
        scores: dict[str, Score] = {}
        kinds = {
            "bleu": {name: bleu_of(tokenizer) for name, tokenizer in tokenizers.items()},
            "chrf": {name: chrf() for name in tokenizers},
        }
        for kind, metrics in kinds.items():
            scores[kind] = corpus_score(metrics, answers, targets, names, intervals=intervals)
            for name, metric in metrics.items() if len(metrics) > 1 else ():
                own = [row for row, language in enumerate(names) if language == name]
                scores[f"{kind}_{name}"] = corpus_score(
                    {name: metric},
                    [answers[row] for row in own],
                    [targets[row] for row in own],
                    [name] * len(own),
                    intervals=intervals,
                )
        return scores

    def row_scores(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        """Return the chrF2 of each sentence, from 0 to 1."""
        return row_chrf([prediction.text for prediction in predictions], _targets(rows)) / 100

    def notes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, str]:
        """Return sacrebleu's signatures by metric."""
        tokenizers = _tokenizers(_targets(rows), _languages(rows))
        if len(set(tokenizers.values())) == 1:
            bleu = {"bleu": signature(bleu_of(next(iter(tokenizers.values()))))}
        else:
            bleu = {f"bleu_{name}": signature(bleu_of(used)) for name, used in tokenizers.items()}
        return bleu | {"chrf": signature(chrf())}

    @property
    def questions(self) -> tuple[str, ...]:
        """The prompts for the text and, if there are several or unknown ones, for the target language."""
        known = self.target_languages
        return ("text",) if known is not None and len(known) < 2 else ("text", "target language")

    def row_from_input(self, typed: Sequence[str], history: Sequence[tuple[Row, Prediction]]) -> Row:
        """Return the typed text and target language; an empty input repeats the previous one."""
        last = history[-1][0] if history else {}
        names = ("source", "target_language")[: len(typed)]
        row = {name: text.strip() or last.get(name) for name, text in zip(names, typed, strict=True)}
        return {name: value for name, value in row.items() if value}


def _targets(rows: Sequence[Row]) -> list[str]:
    return [str(row["target"]) for row in rows]


def _languages(rows: Sequence[Row]) -> list[str]:
    return [row.get("target_language") or "none" for row in rows]


def _tokenizers(targets: Sequence[str], names: Sequence[str]) -> dict[str, BleuTokenizer]:
    """Return the BLEU tokenizer of each language."""
    texts: dict[str, list[str]] = {name: [] for name in sorted(set(names))}
    for target, name in zip(targets, names, strict=True):
        texts[name].append(target)
    return {name: bleu_tokenizer(name, own) for name, own in texts.items()}
