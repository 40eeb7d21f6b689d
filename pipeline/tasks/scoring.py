"""Metrics over rows with 95 % confidence intervals, which say how far a number varies between samples.

Shares of rows have Wilson intervals. All other metrics have bootstrap intervals, widened for few rows; all
use the same resamples, so that metrics on the same rows can be compared.

Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference"; Efron and
Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (the percentile interval); Hesterberg 2015,
"What Teachers Should Know About the Bootstrap", section 5.3 (the expanded percentile interval).
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pipeline.tasks.finetuning import Score

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0

#: The number of row indices drawn at once: 4 MB, which fits into the cache of a CPU.
_DRAWN_AT_ONCE = 1 << 19


def mean_score(values: npt.ArrayLike, *, intervals: bool = True) -> Score:
    """Return the mean of one value per row (N,).

    Raises:
        ValueError: there are no rows.
    """
    array = np.asarray(values, np.float64)
    if intervals and len(array) and np.isin(array, (0, 1)).all():
        return share_score(int(array.sum()), len(array))
    return statistic_score(lambda rows: array[rows].mean(axis=1), len(array), intervals=intervals)


def statistic_score(statistic: Callable[[Ints], Floats], n_rows: int, *, intervals: bool = True) -> Score:
    """Return any statistic of a set of rows, with its interval.

    There is no interval if all resamples give the same value, such as an F1 of 1: they then say nothing about
    other rows.

    Args:
        statistic: receives row indices (R, N), one resample per line, and returns a value for each (R,).
            `cell_sums` and `column_sums` compute most statistics fast.
        n_rows: the number of rows N.
        intervals: whether to compute the interval; otherwise the statistic is called only once.

    Raises:
        ValueError: there are no rows.
    """
    if n_rows < 1:
        raise ValueError("there are no rows to score; expected at least one; give rows with targets")
    every = np.arange(n_rows)
    value = float(statistic(every[None])[0])
    if not intervals or n_rows == 1 or not math.isfinite(value):
        return Score(value=value, n_rows=n_rows)
    low, high = _interval(statistic, n_rows)
    if low == high:
        return Score(value=value, n_rows=n_rows)
    return Score(value=value, low=low, high=high, n_rows=n_rows)


def cell_sums(rows: Ints, cells: Ints, n_cells: int, *, weights: Floats | None = None) -> Floats:
    """Count each cell in each resample, or sum its weights: (R, n_cells).

    Args:
        rows: row indices (R, N).
        cells: the cell of each row (N,), such as an index into a confusion matrix.
        n_cells: the number of cells.
        weights: what each row (N,) adds to its cell; 1 by default.
    """
    lines = np.arange(len(rows))[:, None] * n_cells
    places = (cells[rows] + lines).ravel()
    chosen = None if weights is None else weights[rows].ravel()
    sums = np.bincount(places, weights=chosen, minlength=len(rows) * n_cells)
    return sums.reshape(len(rows), n_cells).astype(np.float64)


def column_sums(rows: Ints, table: npt.NDArray[np.number]) -> Floats:
    """Return the sums over each resample of a table (N, K) with one line per row: (R, K)."""
    counts = cell_sums(rows, np.arange(len(table)), len(table))
    sums: Floats = counts @ table.astype(np.float64)
    return sums


def share_score(n_ones: int, n_rows: int) -> Score:
    """Return the share of ones with Wilson's interval, which is not empty if all are ones."""
    share, z = n_ones / n_rows, NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = share + z**2 / (2 * n_rows)
    half_width = z * math.sqrt(share * (1 - share) / n_rows + (z / (2 * n_rows)) ** 2)
    low, high = ((middle + sign * half_width) / (1 + z**2 / n_rows) for sign in (-1, 1))
    # At the ends, the formula gives exactly 0 or 1, except for rounding errors.
    low, high = (low if n_ones else 0.0), (high if n_ones < n_rows else 1.0)
    return Score(value=share, low=low, high=high, n_rows=n_rows)


def _interval(statistic: Callable[[Ints], Floats], n_rows: int) -> tuple[float, float]:
    """Return the expanded percentile interval: `scipy.stats.bootstrap` takes a second to import."""
    rng, at_once = np.random.default_rng(SEED), max(1, _DRAWN_AT_ONCE // n_rows)
    sizes = [min(at_once, RESAMPLES - drawn) for drawn in range(0, RESAMPLES, at_once)]
    values = np.concatenate([statistic(rng.integers(0, n_rows, (size, n_rows))) for size in sizes])
    outside = (1 - expanded_confidence(n_rows)) / 2
    low, high = np.quantile(values, (outside, 1 - outside))
    return float(low), float(high)


def expanded_confidence(n_rows: int) -> float:
    """Return the level at which a percentile interval of a mean is as wide as Student's: 0.998 for 5 rows.

    Resamples vary less than samples, by sqrt((N - 1) / N), and have the tails of a normal distribution.
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    quantile = float(stdtrit(n_rows - 1, (1 + CONFIDENCE) / 2))
    return 2 * NormalDist().cdf(math.sqrt(n_rows / (n_rows - 1)) * quantile) - 1
