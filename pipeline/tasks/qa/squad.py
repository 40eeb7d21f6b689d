"""Exact match and F1 of answers, as computed by the official evaluation scripts, and the null threshold.

All scores are from 0 to 1; the scripts print percentages. Answers from Chinese contexts are compared by
characters, as in the script of CMRC 2018.

Source: Rajpurkar et al. 2016, "SQuAD", section 6.1, `evaluate-v1.1.py`; Rajpurkar et al. 2018, "Know What You
Don't Know", `evaluate-v2.0.py`; Cui et al. 2019, "A Span-Extraction Dataset for Chinese Machine Reading
Comprehension", section 4.1, `cmrc2018_evaluate.py`.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.tasks.scoring import Floats

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_CHINESE = re.compile(f"[{_HAN}]")
#: A Chinese character, a punctuation mark, or a run of other characters that may include points and commas.
#: This approximates NLTK's tokens: of the 3,219 development rows of CMRC 2018, two have another F1.
_MARKS = r"\s;@#$%&?!()\[\]{}<>\""
_SEGMENT = re.compile(rf"[{_HAN}]|(?:[^{_HAN}{_MARKS},.]|,(?=\d)|\.(?!\s*$))+|[^\s]")
#: The punctuation that cmrc2018_evaluate.py removes.
_NO_CHINESE_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")


def row_scores(
    predictions: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Return exact match, F1 and whether there is an answer, each (N,).

    Rows are scored as in v2.0 if any question has no answer, else as in v1.1; Chinese contexts as in CMRC
    2018.
    """
    references = [list(row["answers"]["text"]) for row in rows]
    answerable = np.array([bool(some) for some in references], np.bool_)
    latin = scores_v1 if answerable.all() else scores_v2
    pairs = [
        (scores_cmrc if is_chinese(row["context"]) else latin)(text, some)
        for text, some, row in zip(predictions, references, rows, strict=True)
    ]
    exact, f1 = np.array(pairs, np.float64).reshape(-1, 2).T
    return exact, f1, answerable


def scores_v1(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Return exact match and F1 with the best reference, as in SQuAD v1.1: an answer of articles has F1 0."""
    return _best(_compared_by_words(prediction, reference, both_empty=0.0) for reference in references)


def scores_v2(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Score as in SQuAD v2.0: without references, an empty prediction scores 1 and any other 0."""
    nonempty = [reference for reference in references if normalized(reference)] or [""]
    return _best(_compared_by_words(prediction, reference, both_empty=1.0) for reference in nonempty)


def scores_cmrc(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Score as in CMRC 2018; it has no unanswerable questions, so those are scored as in SQuAD v2.0."""
    if not references:
        return float(not prediction), float(not prediction)
    return _best(_compared_by_characters(prediction, reference) for reference in references)


def normalized(text: str) -> str:
    """Return lower-case text without ASCII punctuation, English articles and redundant white space."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def is_chinese(context: str) -> bool:
    """Return whether at least a tenth of a text is Chinese characters."""
    return not context.isascii() and 10 * len(_CHINESE.findall(context)) >= len(context)


def best_null_threshold(margins: Floats, answered: Floats, unanswered: Floats) -> float:
    """Return the threshold with the best mean score if rows with a margin above it are left unanswered.

    Among equals it is the lowest, halfway between two margins, so that rounding changes no decision.

    Args:
        margins: (N,) the score of no answer minus that of the best answer; infinite without candidates.
        answered: (N,) the F1 of the best answer.
        unanswered: (N,) the F1 of an empty answer.

    Source: `find_best_thresh` of evaluate-v2.0.py: one pass over the rows in order of their margins.
    """
    order = np.argsort(margins, kind="stable")
    order = order[np.isfinite(margins[order])]
    if not len(order):
        return 0.0
    sure = margins[order]
    last_of_equals = np.append(sure[1:] != sure[:-1], True)
    gains = np.cumsum(answered[order] - unanswered[order])[last_of_equals]
    distinct = sure[last_of_equals]
    edges = np.concatenate(([distinct[0] - 2], distinct, [distinct[-1] + 2]))
    best = int(np.concatenate(([0.0], gains)).argmax())
    return float((edges[best] + edges[best + 1]) / 2)


def _best(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    exact, f1 = zip(*pairs, strict=True)
    return max(exact), max(f1)


def _compared_by_words(prediction: str, reference: str, *, both_empty: float) -> tuple[float, float]:
    said, true = normalized(prediction), normalized(reference)
    return float(said == true), _f1_of_words(said.split(), true.split(), both_empty=both_empty)


def _f1_of_words(said: list[str], true: list[str], *, both_empty: float) -> float:
    if not said or not true:
        return both_empty if said == true else 0.0
    return _f1((Counter(said) & Counter(true)).total(), len(said), len(true))


def _compared_by_characters(prediction: str, reference: str) -> tuple[float, float]:
    """Return exact match without punctuation, and the F1 of the longest common run of segments."""
    said, true = (text.lower().strip().translate(_NO_CHINESE_PUNCTUATION) for text in (prediction, reference))
    segments, true_segments = _SEGMENT.findall(said), _SEGMENT.findall(true)
    run = SequenceMatcher(None, segments, true_segments, autojunk=False).find_longest_match().size
    return float(said == true), _f1(run, len(segments), len(true_segments))


def _f1(n_shared: int, n_said: int, n_true: int) -> float:
    return 2 * n_shared / (n_said + n_true) if n_shared else 0.0
