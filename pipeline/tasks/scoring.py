"""Metrics over rows with 95 % bootstrap intervals: how far a number would move with other such rows.

Every interval is drawn from the same resamples, so that metrics of the same rows can be compared.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13 (the percentile interval).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.tasks.finetuning import Score

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0

#: Numbers of rows that are drawn at once: 4 MB, which stays in the cache of a CPU.
_DRAWN_AT_ONCE = 1 << 19


def mean_score(values: npt.ArrayLike, *, intervals: bool = True) -> Score:
    """The mean of one value a row (N,).

    Raises:
        ValueError: there are no rows.
    """
    array = np.asarray(values, np.float64)
    return statistic_score(lambda rows: array[rows].mean(axis=1), len(array), intervals=intervals)


def statistic_score(statistic: Callable[[Ints], Floats], n_rows: int, *, intervals: bool = True) -> Score:
    """Any number of a set of rows.

    Args:
        statistic: gets numbers of rows (R, N), one resample a line and some rows several times in it, and
            gives the value (R,) of each resample. `cell_sums` and `column_sums` make most of them cheap.
        n_rows: how many rows there are: N.
        intervals: whether the interval is wanted; without, the statistic is asked once.

    Raises:
        ValueError: there are no rows.
    """
    if n_rows < 1:
        raise ValueError("there are no rows to score; expected at least one; give rows with truths")
    every = np.arange(n_rows)
    value = float(statistic(every[None])[0])
    if not intervals:
        return Score(value=value)
    if n_rows == 1:  # every resample is that row
        return Score(value=value, low=value, high=value)
    return Score(value=value, **_interval(statistic, every))


def cell_sums(rows: Ints, cells: Ints, n_cells: int, *, weights: Floats | None = None) -> Floats:
    """How often each cell occurs in each resample, or the sum of its weights: (R, n_cells).

    Args:
        rows: numbers of rows (R, N).
        cells: the cell (N,) of each row, such as a place in a confusion matrix.
        n_cells: how many cells there are.
        weights: what each row (N,) adds to its cell; 1 if left out.
    """
    lines = np.arange(len(rows))[:, None] * n_cells
    places = (cells[rows] + lines).ravel()
    chosen = None if weights is None else weights[rows].ravel()
    sums = np.bincount(places, weights=chosen, minlength=len(rows) * n_cells)
    return sums.reshape(len(rows), n_cells).astype(np.float64)


def column_sums(rows: Ints, table: npt.NDArray[np.number]) -> Floats:
    """The sums over each resample of a table (N, K) with a line a row, such as counts of n-grams: (R, K)."""
    counts = cell_sums(rows, np.arange(len(table)), len(table))
    sums: Floats = counts @ table.astype(np.float64)
    return sums


def _interval(statistic: Callable[[Ints], Floats], every: Ints) -> dict[str, float]:
    from scipy.stats import bootstrap  # type: ignore[import-untyped]

    def of_resamples(rows: Ints, axis: Any) -> Floats:
        return statistic(rows)

    found = bootstrap(
        (every,),
        of_resamples,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, _DRAWN_AT_ONCE // len(every)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return {"low": float(found.low), "high": float(found.high)}
