"""Whether one run answers the same rows better than another, or was only luckier with them.

Both tests look at the differences row by row. Rows with equal differences are exchangeable, so a resample is
drawn as how often each difference occurs: the same law as drawing rows one by one, at a fraction of the cost.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8 (paired data) and 15
(permutation tests); Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 0
#: Below it every choice of signs is looked at.
EXACT_ROWS = 13
#: Numbers drawn at once: 32 MB.
DRAWN_AT_ONCE = 1 << 22
ALPHA = 0.05
#: More distinct differences than these, such as of chrF, are rounded to this many on each side of zero.
GRID = 500


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much higher the first run's rows score on average, with its interval and p-value."""

    value: float
    low: float
    high: float
    p_value: float
    n_rows: int

    @property
    def is_significant(self) -> bool:
        """Whether chance alone makes such a difference in less than 5 % of cases."""
        return self.p_value < ALPHA


def pair_rows(
    rows: Sequence[str], scores: Floats, other_rows: Sequence[str], other_scores: Floats
) -> tuple[Floats, Floats]:
    """The scores of the rows that both have, in one order; a row that is there twice is paired twice."""
    places = {key: place for place, key in enumerate(_numbered(other_rows))}
    both = [(i, places[key]) for i, key in enumerate(_numbered(rows)) if key in places]
    first, second = np.array(both, np.int64).reshape(-1, 2).T
    return scores[first], other_scores[second]


def _numbered(rows: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each row with how often it came before."""
    seen: Counter[str] = Counter()
    for row in rows:
        yield row, seen[row]
        seen[row] += 1


def paired_difference(first: Floats, second: Floats) -> Difference:
    """The mean difference of paired scores (N,), its 95 % bootstrap interval and its permutation p-value.

    Raises:
        ValueError: there are no rows.
    """
    if not len(first):
        raise ValueError("there are no rows in common; expected at least one; measure on the same rows")
    exact = np.round(first - second, 12)
    differences = _coarse(exact)
    low, high = _interval(*np.unique(differences, return_counts=True))
    shift = float(exact.mean() - differences.mean())
    return Difference(
        value=float(exact.mean()),
        low=low + shift,
        high=high + shift,
        p_value=_p_value(differences),
        n_rows=len(exact),
    )


def _coarse(differences: Floats) -> Floats:
    """On a grid where there are more values than it has places: it adds a millionth to their variance."""
    if len(np.unique(differences)) <= GRID:
        return differences
    step = np.abs(differences).max() / GRID
    coarse: Floats = np.round(differences / step) * step
    return coarse


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons, raised so that any false alarm at all stays below the level."""
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = highest
    return adjusted


def _interval(values: Floats, counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    n_rows = int(counts.sum())
    random = np.random.default_rng(SEED)
    means = [
        random.multinomial(n_rows, counts / n_rows, size=size) @ values / n_rows
        for size in _batches(len(values))
    ]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


def _p_value(differences: Floats) -> float:
    """How often random signs give a sum at least as far from zero; rows without a difference have no sign."""
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
    """How many resamples to draw at a time."""
    at_once = max(1, DRAWN_AT_ONCE // n_cells)
    for start in range(0, RESAMPLES, at_once):
        yield min(at_once, RESAMPLES - start)
