"""Bootstrap intervals: equal to drawing rows one by one, the same every time, and cheap in memory."""

import tracemalloc

import numpy as np
import pytest

from pipeline.tasks.scoring import RESAMPLES, SEED, cell_sums, column_sums, mean_score, statistic_score

RNG = np.random.default_rng(0)


def slow_interval(values: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(SEED)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def test_the_interval_of_a_mean_is_that_of_means_of_rows_drawn_one_by_one() -> None:
    values = RNG.random(50)
    score = mean_score(values)
    assert score.value == pytest.approx(values.mean())
    assert (score.low, score.high) == pytest.approx(slow_interval(values))


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


def test_one_row_has_an_interval_of_no_width() -> None:
    score = mean_score([0.25])
    assert (score.value, score.low, score.high) == (0.25, 0.25, 0.25)


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
