"""Test whether one run is significantly better than another on the same rows.

Both the interval and the test are over the differences per row. If scores are 0 or 1, both are computed in
closed form; otherwise the interval is Student's, and the test is a permutation test that flips signs at
random.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 15 (permutation tests); Agresti
and Min 2005, "Simple Improved Confidence Intervals for Comparing Matched Proportions"; Holm 1979, "A Simple
Sequentially Rejective Multiple Test Procedure".
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
SEED = 0
#: Up to this number of rows, every combination of signs is enumerated.
EXACT_ROWS = 13
#: The most numbers drawn at once (32 MB).
DRAWN_AT_ONCE = 1 << 22
ALPHA = 0.05
#: With fewer rows, no run is called better, whatever the p-value, since few rows are seldom representative.
MIN_ROWS = 30
#: If there are more distinct differences, as with chrF, they are rounded to this many on each side of zero.
GRID = 500


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean difference of scores, the first run minus the second, with its interval and p-value."""

    value: float
    low: float
    high: float
    p_value: float
    n_rows: int

    @property
    def is_significant(self) -> bool:
        """Whether p < 0.05, on enough rows."""
        return self.p_value < ALPHA and self.has_enough_rows

    @property
    def has_enough_rows(self) -> bool:
        """Whether there are enough rows to call a run better."""
        return self.n_rows >= MIN_ROWS


def pair_rows(
    rows: Sequence[str], scores: Floats, other_rows: Sequence[str], other_scores: Floats
) -> tuple[Floats, Floats]:
    """Return the scores of common rows in the same order; a row that occurs twice is paired twice."""
    places = {key: place for place, key in enumerate(_numbered(other_rows))}
    both = [(i, places[key]) for i, key in enumerate(_numbered(rows)) if key in places]
    first, second = np.array(both, np.int64).reshape(-1, 2).T
    return scores[first], other_scores[second]


def _numbered(rows: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each row with the number of its earlier occurrences."""
    seen: Counter[str] = Counter()
    for row in rows:
        yield row, seen[row]
        seen[row] += 1


def paired_difference(first: Floats, second: Floats) -> Difference:
    """Return the mean difference of paired scores (N,), its 95 % interval and its permutation p-value.

    Raises:
        ValueError: if there are no rows, or a score is not finite. Rows without a score must not be left
            out: a model that fails on hard rows would look better for it.
    """
    if not len(first):
        raise ValueError("there are no rows in common; expected at least one; measure on the same rows")
    if n_missing := count_missing(first, second):
        raise ValueError(
            f"{n_missing:,} rows have a score that is not finite; expected numbers; measure again"
        )
    if np.isin([first, second], (0, 1)).all():
        return _of_right_and_wrong(first, second)
    differences = np.round(first - second, 12)
    low, high = mean_interval(differences)
    return Difference(
        value=float(differences.mean()),
        low=low,
        high=high,
        p_value=_p_value(_coarse(differences)),
        n_rows=len(differences),
    )


def count_missing(first: Floats, second: Floats) -> int:
    """Count the paired rows with a score that is not finite."""
    return int((~np.isfinite(first) | ~np.isfinite(second)).sum())


def _of_right_and_wrong(first: Floats, second: Floats) -> Difference:
    """Compare scores of 0 or 1: McNemar's exact test, and an interval with half a row added to each case."""
    from scipy.stats import binomtest, norm  # type: ignore[import-untyped]

    n_rows = len(first)
    n_more, n_less = int((first > second).sum()), int((first < second).sum())
    n_unequal = n_more + n_less
    middle, spread = (n_more - n_less) / (n_rows + 2), (n_unequal + 1) / (n_rows + 2)
    half_width = norm.ppf(0.975) * np.sqrt((spread - middle**2) / (n_rows + 2))
    return Difference(
        value=(n_more - n_less) / n_rows,
        low=max(-1.0, float(middle - half_width)),
        high=min(1.0, float(middle + half_width)),
        p_value=float(binomtest(n_more, n_unequal).pvalue) if n_unequal else 1.0,
        n_rows=n_rows,
    )


def _coarse(differences: Floats) -> Floats:
    """Round to a grid if there are more distinct values than grid points; the variance grows by 1e-6."""
    if len(np.unique(differences)) <= GRID:
        return differences
    step = np.abs(differences).max() / GRID
    coarse: Floats = np.round(differences / step) * step
    return coarse


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several comparisons to control the family-wise error rate."""
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = highest
    return adjusted


def mean_interval(values: Floats) -> tuple[float, float]:
    """Return Student's 95 % confidence interval of the mean, which is infinite for a single value."""
    if len(values) == 1:
        return -math.inf, math.inf
    from scipy.stats import sem, t

    mean, error = float(values.mean()), float(sem(values))
    half_width = error * float(t.ppf(0.975, len(values) - 1))
    return mean - half_width, mean + half_width


def _p_value(differences: Floats) -> float:
    """Return how often random signs give a sum at least as far from zero; zeros are left out."""
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    found = abs(differences.sum()) - 1e-9
    if counts.sum() <= EXACT_ROWS:
        every = np.repeat(sizes, counts)
        signs = 1 - 2 * (np.arange(1 << len(every))[:, None] >> np.arange(len(every)) & 1)
        return float((np.abs(signs @ every) >= found).mean())
    random = np.random.default_rng(SEED + 1)
    as_far = 0
    for size in _batches(len(sizes)):
        positive = random.binomial(counts, 0.5, size=(size, len(sizes)))
        as_far += int((np.abs((2 * positive - counts) @ sizes) >= found).sum())
    return (as_far + 1) / (RESAMPLES + 1)


def _batches(n_cells: int) -> Iterator[int]:
    """Yield the number of resamples to draw at a time."""
    at_once = max(1, DRAWN_AT_ONCE // n_cells)
    for start in range(0, RESAMPLES, at_once):
        yield min(at_once, RESAMPLES - start)
