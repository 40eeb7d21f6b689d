"""Translation: a text in one language, written in another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from pipeline.tasks.finetuning import Prediction, Row, Score
from pipeline.tasks.scripts import BleuTokenizer, bleu_tokenizer
from pipeline.tasks.text_scores import bleu_of, chrf, corpus_score, row_chrf, signature
from pipeline.tasks.text_to_text import TextToText, check_text


@dataclass(frozen=True, kw_only=True)
class Translation(TextToText):
    """Write the text of `source` as `target`.

    Where rows have a `target_language`, the source begins with its name ("de: "), so that one model writes
    several languages. Scores are those of sacrebleu, from 0 to 100: `bleu` and `chrf`; with several languages
    also each one's (`bleu_de`), and `bleu` and `chrf` are then their means.
    """

    inputs: ClassVar[tuple[str, ...]] = ("source",)
    truths: ClassVar[tuple[str, ...]] = ("target",)
    optional: ClassVar[tuple[str, ...]] = ("target_language",)
    metric: ClassVar[str] = "bleu"
    questions: ClassVar[tuple[str, ...]] = ("text", "target language")

    def check(self, rows: Sequence[Row], split: str) -> None:
        """Refuse empty sources and targets, and a target language that only some rows have."""
        super().check(rows, split)
        for number, row in enumerate(rows):
            name = row.get("target_language")
            if name is not None:
                check_text(name, f"row {number + 1} of {split}: target_language")
            if (name is None) != (rows[0].get("target_language") is None):
                raise DataError(
                    f"row {number + 1} of {split}: target_language is {name!r}",
                    f"a language in all rows or in none, as row 1 has {'none' if name else 'one'}",
                    "add it, or leave the column out",
                )

    def source(self, row: Row) -> str:
        """The text, after the language that it shall be written in."""
        name, text = row.get("target_language"), str(row["source"])
        return f"{name}: {text}" if name else text

    def targets(self, row: Row) -> list[str]:
        """The one translation."""
        return [] if row.get("target") is None else [str(row["target"])]

    def score(
        self, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = False
    ) -> dict[str, Score]:
        """sacrebleu's BLEU and chrF2 over the corpus: of each language, and their mean."""
        answers = [prediction.text for prediction in predictions]
        truths, names = _truths(rows), _languages(rows)
        tokenizers = _tokenizers(truths, names)
        scores: dict[str, Score] = {}
        kinds = {
            "bleu": {name: bleu_of(tokenizer) for name, tokenizer in tokenizers.items()},
            "chrf": {name: chrf() for name in tokenizers},
        }
        for kind, metrics in kinds.items():
            scores[kind] = corpus_score(metrics, answers, truths, names, intervals=intervals)
            for name, metric in metrics.items() if len(metrics) > 1 else ():
                own = [row for row, language in enumerate(names) if language == name]
                scores[f"{kind}_{name}"] = corpus_score(
                    {name: metric},
                    [answers[row] for row in own],
                    [truths[row] for row in own],
                    [name] * len(own),
                    intervals=intervals,
                )
        return scores

    def row_scores(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        """chrF2 of each sentence, from 0 to 1."""
        return row_chrf([prediction.text for prediction in predictions], _truths(rows)) / 100

    def notes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, str]:
        """The signatures of sacrebleu by metric."""
        tokenizers = _tokenizers(_truths(rows), _languages(rows))
        if len(set(tokenizers.values())) == 1:
            bleu = {"bleu": signature(bleu_of(next(iter(tokenizers.values()))))}
        else:
            bleu = {f"bleu_{name}": signature(bleu_of(used)) for name, used in tokenizers.items()}
        return bleu | {"chrf": signature(chrf())}

    def asked(self, typed: Sequence[str], history: Sequence[tuple[Row, Prediction]]) -> Row:
        """A text, and the language to write it in where one was typed."""
        text, name = typed
        return {"source": text} | ({"target_language": name.strip()} if name.strip() else {})


def _truths(rows: Sequence[Row]) -> list[str]:
    return [str(row["target"]) for row in rows]


def _languages(rows: Sequence[Row]) -> list[str]:
    return [row.get("target_language") or "none" for row in rows]


def _tokenizers(truths: Sequence[str], names: Sequence[str]) -> dict[str, BleuTokenizer]:
    """What cuts the texts of each language for BLEU."""
    texts: dict[str, list[str]] = {name: [] for name in sorted(set(names))}
    for truth, name in zip(truths, names, strict=True):
        texts[name].append(truth)
    return {name: bleu_tokenizer(name, own) for name, own in texts.items()}
