"""Baselines for classification: the majority label, and a linear model on word counts.

Source: Wang and Manning 2012, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification".
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.tasks.scoring import Ints
from pipeline.tasks.scripts import words_of

#: The maximum number of training rows, evenly spaced, so that the linear model trains in seconds.
MAX_ROWS = 50_000
#: Passes over the training rows; more of them change little.
_PASSES = 20
#: The inverse of the regularization strength; weak, because the TF-IDF of short texts is small.
_C = 10.0


def commonest(labels: Ints, n_rows: int) -> Ints:
    """Return the most frequent training label (N,) as the prediction for each of `n_rows` rows."""
    return np.full(n_rows, np.bincount(labels).argmax(), np.int64)


def linear(texts: Sequence[Sequence[str]], labels: Ints, inputs: Sequence[Sequence[str]]) -> Ints:
    """Return the predictions of a logistic regression on TF-IDF of words and word pairs; deterministic.

    Args:
        texts: the texts of each training row: one, or two for a pair; each has its own features.
        labels: the labels of the training rows (N,), of at least two classes.
        inputs: the texts of the rows to predict.

    Raises:
        ValueError: no training text has a word.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    chosen = np.linspace(0, len(texts) - 1, min(len(texts), MAX_ROWS)).astype(np.int64)
    features, input_features = _features([texts[i] for i in chosen], inputs)
    model = LogisticRegression(C=_C, solver="saga", max_iter=_PASSES, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels[chosen])
    predictions: Ints = model.predict(input_features)
    return predictions


def _features(texts: Sequence[Sequence[str]], inputs: Sequence[Sequence[str]]) -> tuple[Any, Any]:
    """Return the TF-IDF of training rows and of rows to predict; the two texts of a pair are concatenated."""
    from scipy.sparse import hstack  # type: ignore[import-untyped]
    from sklearn.feature_extraction.text import TfidfVectorizer

    parts = []
    for place in range(max(map(len, texts))):
        vectorizer = TfidfVectorizer(
            tokenizer=words_of, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True
        )
        first, second = ([row[place] if place < len(row) else "" for row in rows] for rows in (texts, inputs))
        parts.append((vectorizer.fit_transform(first), vectorizer.transform(second)))
    trained, predicted = zip(*parts, strict=True)
    return hstack(trained, format="csr"), hstack(predicted, format="csr")
