"""Baselines of a classifier: the majority label, and a linear model of word counts.

Source: Wang and Manning 2012, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification".
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.tasks.scoring import Ints
from pipeline.tasks.scripts import words_of

#: The most training rows of the linear model, evenly spaced, so that it is trained in seconds.
MAX_ROWS = 50_000
#: Passes over them; further ones change little.
_PASSES = 20
#: The inverse of the strength of regularisation: weak, for TF-IDF of short texts is small.
_C = 10.0


def commonest(labels: Ints, n_asked: int) -> Ints:
    """The commonest of the training labels (N,) as the prediction for each row."""
    return np.full(n_asked, np.bincount(labels).argmax(), np.int64)


def linear(texts: Sequence[Sequence[str]], labels: Ints, asked: Sequence[Sequence[str]]) -> Ints:
    """The answers of a logistic regression on TF-IDF of words and pairs of words; the same in each call.

    Args:
        texts: the texts of each training row: one, or the two of a pair, which are counted apart.
        labels: their labels (N,), of at least two classes.
        asked: the texts of the rows to predict.

    Raises:
        ValueError: no training text has a word.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    chosen = np.linspace(0, len(texts) - 1, min(len(texts), MAX_ROWS)).astype(np.int64)
    features, wanted = _features([texts[i] for i in chosen], asked)
    model = LogisticRegression(C=_C, solver="saga", max_iter=_PASSES, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels[chosen])
    answers: Ints = model.predict(wanted)
    return answers


def _features(texts: Sequence[Sequence[str]], asked: Sequence[Sequence[str]]) -> tuple[Any, Any]:
    """TF-IDF of each text of a row, beside each other: of the training rows, and of those to be answered."""
    from scipy.sparse import hstack  # type: ignore[import-untyped]
    from sklearn.feature_extraction.text import TfidfVectorizer

    parts = []
    for place in range(max(map(len, texts))):
        vectorizer = TfidfVectorizer(
            tokenizer=words_of, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True
        )
        first, second = ([row[place] if place < len(row) else "" for row in rows] for rows in (texts, asked))
        parts.append((vectorizer.fit_transform(first), vectorizer.transform(second)))
    trained, answered = zip(*parts, strict=True)
    return hstack(trained, format="csr"), hstack(answered, format="csr")
