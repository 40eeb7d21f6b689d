"""Bootstrap intervals: equal to drawing rows one by one, the same every time, and cheap in memory."""

import tracemalloc

import numpy as np
import pytest
from scipy.stats import binom, binomtest, bootstrap, norm, t

from pipeline.tasks.scoring import (
    RESAMPLES,
    SEED,
    cell_sums,
    column_sums,
    expanded_confidence,
    mean_score,
    statistic_score,
)

RNG = np.random.default_rng(0)


def test_the_interval_of_a_mean_is_scipys_from_the_same_resamples() -> None:
    for n_rows in (2, 50, 3000):
        values = RNG.random(n_rows)
        score = mean_score(values)
        assert score.value == pytest.approx(values.mean())
        truth = bootstrap(
            (values,), np.mean, n_resamples=RESAMPLES, confidence_level=expanded_confidence(n_rows),
            method="percentile", rng=np.random.default_rng(SEED), batch=1,
        ).confidence_interval  # fmt: skip
        assert (score.low, score.high) == pytest.approx((truth.low, truth.high))


@pytest.mark.parametrize("n_rows", [2, 5, 1000])
def test_the_level_of_resamples_is_that_of_students_width(n_rows: int) -> None:
    half_width = np.sqrt(n_rows / (n_rows - 1)) * t.ppf(0.975, n_rows - 1)
    assert expanded_confidence(n_rows) == pytest.approx(2 * norm.cdf(half_width) - 1)


@pytest.mark.parametrize(("n_ones", "n_rows"), [(0, 1), (1, 1), (3, 7), (0, 40), (40, 40), (911, 1000)])
def test_the_interval_of_a_share_is_wilsons(n_ones: int, n_rows: int) -> None:
    score = mean_score([1] * n_ones + [0] * (n_rows - n_ones))
    truth = binomtest(n_ones, n_rows).proportion_ci(0.95, method="wilson")
    assert (score.low, score.high) == pytest.approx((truth.low, truth.high))


def test_the_interval_of_none_and_of_all_is_exact_at_its_end() -> None:
    for n_rows in range(1, 100):
        assert mean_score(np.zeros(n_rows)).low == 0
        assert mean_score(np.ones(n_rows)).high == 1


@pytest.mark.parametrize("n_rows", [5, 10, 30, 100])
def test_the_interval_of_a_share_holds_the_true_one_in_95_of_100_cases(n_rows: int) -> None:
    """Exactly: the probability of each number of right rows, where its interval holds the true share."""
    shares = np.linspace(0.02, 0.98, 97)
    covered = np.zeros(97)
    for n_right in range(n_rows + 1):
        score = mean_score([1] * n_right + [0] * (n_rows - n_right))
        inside = (score.low <= shares) & (shares <= score.high)
        covered += inside * binom.pmf(n_right, n_rows, shares)
    assert 0.94 < covered.mean() < 0.97
    assert covered.min() > 0.83


@pytest.mark.parametrize(("n_rows", "least"), [(5, 0.90), (10, 0.91), (30, 0.93), (100, 0.93)])
def test_the_interval_of_a_mean_holds_the_true_one_of_few_rows_too(n_rows: int, least: float) -> None:
    """The percentiles of resamples alone held it in 0.83, 0.89, 0.91 and 0.92 of cases."""
    rng = np.random.default_rng(3)
    means = [mean_score(rng.beta(2, 1, n_rows)) for _ in range(150)]
    assert np.mean([score.low <= 2 / 3 <= score.high for score in means]) >= least


def test_thirty_of_thirty_is_not_certainty_and_nothing_is_said_where_resamples_cannot_tell() -> None:
    score = mean_score(np.ones(30))
    assert (score.value, score.low, score.high) == pytest.approx((1.0, 0.8865, 1.0), abs=1e-4)
    assert score.n_rows == 30
    equal = statistic_score(lambda rows: np.full(len(rows), 0.7), 30)
    assert (equal.value, equal.low, equal.high, equal.n_rows) == (0.7, None, None, 30)
    missing = mean_score([0.5, float("nan"), 0.7])
    assert np.isnan(missing.value)
    assert missing.low is None


def test_the_interval_of_shares_is_near_that_of_the_normal_approximation() -> None:
    values = RNG.random(2000) < 0.3
    score = mean_score(values)
    error = 1.96 * np.sqrt(score.value * (1 - score.value) / 2000)
    assert score.low == pytest.approx(score.value - error, abs=0.003)
    assert score.high == pytest.approx(score.value + error, abs=0.003)


def test_the_same_rows_have_the_same_interval() -> None:
    values = RNG.random(300)
    assert mean_score(values) == mean_score(values)


def test_no_interval_is_drawn_where_none_is_wanted() -> None:
    asked = []

    def statistic(rows: np.ndarray) -> np.ndarray:
        asked.append(rows)
        return np.full(len(rows), 2.0)

    score = statistic_score(statistic, 10, intervals=False)
    assert (score.value, score.low, score.high) == (2.0, None, None)
    assert len(asked) == 1


def test_one_row_tells_nothing_of_others() -> None:
    score = mean_score([0.25])
    assert (score.value, score.low, score.high, score.n_rows) == (0.25, None, None, 1)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows to score"):
        mean_score([])


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_of_cells_and_columns_are_those_of_a_loop(weighted: bool) -> None:
    rows, cells, weights = RNG.integers(0, 7, (4, 7)), RNG.integers(0, 3, 7), RNG.random(7)
    expected = np.zeros((4, 3))
    for line, drawn in zip(expected, rows, strict=True):
        for row in drawn:
            line[cells[row]] += weights[row] if weighted else 1
    assert cell_sums(rows, cells, 3, weights=weights if weighted else None) == pytest.approx(expected)
    table = np.eye(3)[cells] * (weights[:, None] if weighted else 1)
    assert column_sums(rows, table) == pytest.approx(expected)


def test_resamples_are_drawn_many_at_once_and_as_few_as_200_megabytes_hold() -> None:
    values = RNG.random(10_000)
    drawn: list[int] = []

    def mean(rows: np.ndarray) -> np.ndarray:
        drawn.append(len(rows))
        return values[rows].mean(axis=1)

    mean_score(values[:10])  # imports
    tracemalloc.start()
    statistic_score(mean, len(values))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(drawn) == 1001
    assert len(drawn) < 25
    assert peak < 200e6
