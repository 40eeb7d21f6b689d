"""Classification metrics over many resamples of the rows at once, equal to those of standard libraries.

Classes are indices from 0. R is the number of resamples, N of rows, C of classes.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.tasks.finetuning import Score
from pipeline.tasks.scoring import Floats, Ints, cell_sums, column_sums, mean_score, statistic_score

Bools = npt.NDArray[np.bool_]

#: Bins of confidence, as in Guo et al. 2017.
N_BINS = 15


def single_label_scores(
    target: Ints, predicted: Ints, confidence: Floats, *, n_classes: int, intervals: bool
) -> dict[str, Score]:
    """Return accuracy, macro F1, Matthews correlation and calibration error for one label per row (N,)."""
    cells = target * n_classes + predicted
    right = target == predicted

    def of_confusion(statistic: Callable[[Floats], Floats]) -> Score:
        def of_rows(rows: Ints) -> Floats:
            counts = cell_sums(rows, cells, n_classes**2)
            return statistic(counts.reshape(-1, n_classes, n_classes))

        return statistic_score(of_rows, len(target), intervals=intervals)

    return {
        "accuracy": mean_score(right, intervals=intervals),
        "macro_f1": of_confusion(macro_f1),
        "mcc": of_confusion(matthews_correlation),
        "calibration_error": calibration_error(confidence, right, intervals=intervals),
    }


def multi_label_scores(target: Bools, predicted: Bools, *, intervals: bool) -> dict[str, Score]:
    """Return exact accuracy, micro F1 and macro F1 for any number of labels per row (N, C)."""
    counts = np.concatenate((target & predicted, ~target & predicted, target & ~predicted), axis=1).astype(
        np.float64
    )
    n_rows = len(target)
    return {
        "accuracy": mean_score((target == predicted).all(axis=1), intervals=intervals),
        "micro_f1": statistic_score(
            lambda rows: _micro_f1(column_sums(rows, counts)), n_rows, intervals=intervals
        ),
        "macro_f1": statistic_score(
            lambda rows: _f1(*np.split(column_sums(rows, counts), 3, axis=1)).mean(axis=1),
            n_rows,
            intervals=intervals,
        ),
    }


def macro_f1(confusion: Floats) -> Floats:
    """Return the mean F1 of all classes that occur as target or prediction: (R, C, C), target first, to (R,).

    Source: `sklearn.metrics.f1_score(average="macro")`.
    """
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    said, true = confusion.sum(axis=1), confusion.sum(axis=2)
    occurs = said + true > 0
    scores: Floats = _f1(hits, said - hits, true - hits).sum(axis=1) / occurs.sum(axis=1)
    return scores


def matthews_correlation(confusion: Floats) -> Floats:
    """Return the correlation of target and prediction: (R, C, C) to (R,); 0 if either has a single class.

    Source: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient",
    equation 2; as `sklearn.metrics.matthews_corrcoef`.
    """
    hits = np.trace(confusion, axis1=1, axis2=2)
    said, true = confusion.sum(axis=1), confusion.sum(axis=2)
    n_rows = said.sum(axis=1)
    shared = hits * n_rows - (said * true).sum(axis=1)
    spread = (n_rows**2 - (said**2).sum(axis=1)) * (n_rows**2 - (true**2).sum(axis=1))
    scores: Floats = np.divide(shared, np.sqrt(spread), out=np.zeros_like(shared), where=spread > 0)
    return scores


def calibration_error(confidence: Floats, right: Bools, *, intervals: bool) -> Score:
    """Return the mean absolute difference of confidence and accuracy over bins; 0 is perfectly calibrated.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3; as
    `torchmetrics.classification.MulticlassCalibrationError(n_bins=15, norm="l1")`.
    """
    bins = bin_of(confidence)
    gaps = right.astype(np.float64) - confidence

    def of_rows(rows: Ints) -> Floats:
        error: Floats = np.abs(cell_sums(rows, bins, N_BINS + 1, weights=gaps)).sum(axis=1) / rows.shape[1]
        return error

    return statistic_score(of_rows, len(right), intervals=intervals)


def bin_of(confidence: Floats) -> Ints:
    """Return the bin of each confidence (N,), from 0 to N_BINS; the last one contains exactly 1."""
    return np.searchsorted(np.linspace(0, 1, N_BINS + 1), confidence, side="right").astype(np.int64) - 1


def best_threshold(target: Bools, probabilities: Floats) -> float:
    """Return the threshold with the best micro F1, where probabilities (N, C) at or above it are positive.

    If several are equally good, the highest is returned; 0.5 if no label is true.
    """
    order = np.argsort(-probabilities, axis=None, kind="stable")
    sure, true = probabilities.ravel()[order], target.ravel()[order]
    if not true.any():
        return 0.5
    last_of_equals = np.append(sure[1:] != sure[:-1], True)
    hits, said = np.cumsum(true), np.arange(1, len(true) + 1)
    f1 = np.where(last_of_equals, 2 * hits / (said + true.sum()), -1)
    return float(sure[f1.argmax()])


def _micro_f1(counts: Floats) -> Floats:
    hits, false_alarms, misses = (part.sum(axis=1) for part in np.split(counts, 3, axis=1))
    return _f1(hits, false_alarms, misses)


def _f1(hits: Floats, false_alarms: Floats, misses: Floats) -> Floats:
    """Return F1, or 0 if there are no positives."""
    total = 2 * hits + false_alarms + misses
    return np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)
