"""Similarity of generated texts to references: BLEU and chrF of a corpus, ROUGE of each text.

sacrebleu and rouge_score compute the scores; this module resamples them for confidence intervals.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.tasks.finetuning import Score
from pipeline.tasks.scoring import Floats, Ints, column_sums, statistic_score
from pipeline.tasks.scripts import BleuTokenizer, words_of

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric


def bleu_of(tokenizer: BleuTokenizer) -> "Metric":
    """Return the BLEU metric with the settings of sacrebleu's command.

    Source: Post 2018, "A Call for Clarity in Reporting BLEU Scores".
    """
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenizer)


def chrf() -> "Metric":
    """Return the chrF2 metric with the settings of sacrebleu's command; it works in any script.

    Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def signature(metric: "Metric") -> str:
    """Return sacrebleu's signature, which makes the score reproducible, for one reference per text."""
    metric.corpus_score([""], [[""]])
    return str(metric.get_signature())


def corpus_score(
    metrics: Mapping[str, "Metric"],
    answers: Sequence[str],
    references: Sequence[str],
    groups: Sequence[str],
    *,
    intervals: bool,
) -> Score:
    """Return the corpus score of each group, such as a language, averaged over the groups.

    Args:
        metrics: the metric of each group.
        answers: the generated texts (N,).
        references: the reference texts (N,).
        groups: the group of each text (N,).
        intervals: whether to compute a confidence interval over rows.
    """
    tables = [
        _counts(metric, answers, references, np.array([name == group for group in groups]))
        for name, metric in metrics.items()
    ]
    ends = np.cumsum([table.shape[1] for table in tables])[:-1]
    joined = np.concatenate(tables, axis=1)

    def mean(rows: Ints) -> Floats:
        parts = np.split(column_sums(rows, joined), ends, axis=1)
        scored = [_values(metric, part) for metric, part in zip(metrics.values(), parts, strict=True)]
        result: Floats = np.nanmean(scored, axis=0)
        return result

    return statistic_score(mean, len(answers), intervals=intervals)


def row_chrf(answers: Sequence[str], references: Sequence[str]) -> Floats:
    """Return the chrF2 of each text (N,), from 0 to 100."""
    metric = chrf()
    pairs = zip(answers, references, strict=True)
    return np.array([metric.sentence_score(answer, [reference]).score for answer, reference in pairs])


def rouge(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Floats]:
    """Return F-measures of ROUGE-1, -2 and -L (N,), from 0 to 1, each against the most similar reference.

    There is no stemming. Tokens are words, or characters in scripts without spaces (`words_of`). For English
    they equal rouge_score's own tokens, which only contain a-z and 0-9: other scripts would score 0.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"; the package rouge_score.
    """
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    kinds = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scorer = RougeScorer(list(kinds.values()), tokenizer=_Words())
    scored: list[dict[str, Any]] = [
        scorer.score_multi(targets, answer) for answer, targets in zip(answers, references, strict=True)
    ]
    return {name: np.array([scores[kind].fmeasure for scores in scored]) for name, kind in kinds.items()}


class _Words:
    """The tokenizer interface that rouge_score expects."""

    def tokenize(self, text: str) -> list[str]:
        return words_of(text)


def _counts(
    metric: "Metric", answers: Sequence[str], references: Sequence[str], chosen: npt.NDArray[np.bool_]
) -> Floats:
    """Return the counts (N, K) that sacrebleu sums over a corpus; 0 for texts outside the group."""
    pairs = [(answers[row], references[row]) for row in np.flatnonzero(chosen).tolist()]
    # sacrebleu's own bootstrap uses this function, which has no public name.
    statistics = metric._extract_corpus_statistics(
        [answer for answer, _ in pairs], [[target for _, target in pairs]]
    )
    table = np.zeros((len(answers), len(statistics[0])))
    table[chosen] = statistics
    return table


def _values(metric: "Metric", sums: Floats) -> Floats:
    """Return the score (R,) of each resample's sums (R, K); NaN for a resample without a row of the group."""
    score: Callable[[list[Any]], Any] = metric._compute_score_from_stats
    return np.array([score(line.tolist()).score if line.any() else np.nan for line in sums])
