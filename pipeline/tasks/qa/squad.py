"""Exact match and F1 of answers as the official evaluation scripts compute them, and the null threshold.

All scores are shares from 0 to 1; the scripts print 100 times as much. Answers to questions about Chinese
contexts are compared by characters, as the script of CMRC 2018 does.

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
#: A Chinese character; a mark; or a run of anything else, points and commas within it included, as nearly as
#: need be what NLTK makes of it: on the 3,219 development rows of CMRC 2018 two have another F1.
_MARKS = r"\s;@#$%&?!()\[\]{}<>\""
_SEGMENT = re.compile(rf"[{_HAN}]|(?:[^{_HAN}{_MARKS},.]|,(?=\d)|\.(?!\s*$))+|[^\s]")
#: What cmrc2018_evaluate.py drops.
_NO_CHINESE_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")


def row_scores(
    predictions: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Exact match, F1 and whether there is an answer, each (N,).

    As v2.0 if some question has no answer, else as v1.1; a row with a Chinese context as CMRC 2018.
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
    """Exact match and F1 with the best reference, as SQuAD v1.1: an answer that is only articles has F1 0."""
    return _best(_compared_by_words(prediction, reference, both_empty=0.0) for reference in references)


def scores_v2(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """As SQuAD v2.0: without references, the right answer is none, and both scores are 1 or 0."""
    said = [reference for reference in references if normalized(reference)] or [""]
    return _best(_compared_by_words(prediction, reference, both_empty=1.0) for reference in said)


def scores_cmrc(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """As CMRC 2018, which has no unanswerable questions: these are scored as in SQuAD v2.0."""
    if not references:
        return float(not prediction), float(not prediction)
    return _best(_compared_by_characters(prediction, reference) for reference in references)


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and superfluous white space."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def is_chinese(context: str) -> bool:
    """Whether a tenth of a text or more is Chinese characters."""
    return not context.isascii() and 10 * len(_CHINESE.findall(context)) >= len(context)


def best_null_threshold(margins: Floats, answered: Floats, unanswered: Floats) -> float:
    """The threshold that gives the best mean score when rows with a margin above it are not answered.

    Of several the lowest; it lies in the middle between two margins, so that rounding moves no row across it.

    Args:
        margins: (N,) by how much no answer outscored the best answer; infinite where there is no answer.
        answered: (N,) F1 of the best answer.
        unanswered: (N,) F1 of giving none.

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
    """Exact match without punctuation; F1 of the longest run of segments that both have."""
    said, true = (text.lower().strip().translate(_NO_CHINESE_PUNCTUATION) for text in (prediction, reference))
    segments, true_segments = _SEGMENT.findall(said), _SEGMENT.findall(true)
    run = SequenceMatcher(None, segments, true_segments, autojunk=False).find_longest_match().size
    return float(said == true), _f1(run, len(segments), len(true_segments))


def _f1(n_shared: int, n_said: int, n_true: int) -> float:
    return 2 * n_shared / (n_said + n_true) if n_shared else 0.0
