"""Paired tests against scipy's, which draw row by row, and against chance itself."""

import numpy as np
import pytest
from scipy import stats

from pipeline.compare.significance import holm, mean_interval, pair_rows, paired_difference


def scores(n_rows: int, seed: int, right: float) -> np.ndarray:
    return (np.random.default_rng(seed).random(n_rows) < right).astype(np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("is_continuous", [False, True])
def test_interval_and_p_value_agree_with_scipy_drawing_row_by_row(is_continuous: bool) -> None:
    first, second = scores(400, 1, 0.62), scores(400, 2, 0.55)
    if is_continuous:
        first, second = (some * np.random.default_rng(3).random(400) for some in (first, second))
    found = paired_difference(first, second)
    differences = first - second
    reference = stats.bootstrap(
        (differences,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.005)
    p_value = stats.permutation_test(
        (differences,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=10_000,
        rng=np.random.default_rng(6),
    ).pvalue
    assert found.p_value == pytest.approx(p_value, abs=0.02)


@pytest.mark.slow
def test_many_rows_with_scores_of_their_own_are_tested_as_exactly_on_a_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(1)
    first, second = random.random(2000), random.random(2000) - 0.02
    on_grid = paired_difference(first, second)
    monkeypatch.setattr("pipeline.compare.significance.GRID", 10_000)
    exact = paired_difference(first, second)
    assert on_grid.value == exact.value
    assert (on_grid.low, on_grid.high) == pytest.approx((exact.low, exact.high), abs=1e-3)
    assert on_grid.p_value == pytest.approx(exact.p_value, abs=0.015)


def test_few_rows_are_tested_exactly() -> None:
    found = paired_difference(np.array([1.0, 1, 1, 1, 1]), np.array([0.0, 0, 0, 0, 1]))
    assert found.p_value == 2 / 2**4
    assert not found.is_significant


def test_equal_scores_are_no_difference() -> None:
    same = scores(50, 1, 0.5)
    found = paired_difference(same, same)
    assert (found.value, found.p_value) == (0.0, 1.0)
    assert found.low == pytest.approx(-found.high)
    assert 0 < found.high < 0.05
    graded = np.linspace(0, 0.9, 50)
    assert paired_difference(graded, graded).p_value == 1.0


def test_one_row_tells_next_to_nothing() -> None:
    found = paired_difference(np.array([1.0]), np.array([0.0]))
    assert (found.value, found.p_value, found.low < 0) == (1.0, 1.0, True)
    graded = paired_difference(np.array([0.5]), np.array([0.2]))
    assert (graded.low, graded.high) == (-np.inf, np.inf)
    assert not graded.is_significant


def test_no_rows_and_a_score_that_is_no_number_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows in common"):
        paired_difference(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="1 rows have a score that is not finite"):
        paired_difference(np.array([1.0, np.nan, 1]), np.array([0.0, 0, 0]))


def test_nothing_is_significant_on_fewer_than_thirty_rows() -> None:
    few, enough = (paired_difference(np.ones(n), np.zeros(n)) for n in (29, 30))
    assert few.p_value < 1e-8
    assert not few.is_significant
    assert enough.is_significant


@pytest.mark.parametrize("n_rows", [5, 10, 30, 100])
def test_the_interval_holds_the_true_difference_of_few_rows_too(n_rows: int) -> None:
    rng = np.random.default_rng(n_rows)
    of_shares, of_means = 0, 0
    for _ in range(200):
        first, second = rng.random((2, n_rows))
        found = paired_difference(np.float64(first < 0.8), np.float64(second < 0.7))
        of_shares += found.low <= 0.1 <= found.high
        low, high = mean_interval(first - second**2)
        of_means += low <= 1 / 6 <= high
    assert of_shares >= 182
    assert of_means >= 182


def test_a_pair_is_the_same_every_time_and_in_the_other_order() -> None:
    first, second = scores(300, 1, 0.7), scores(300, 2, 0.5)
    found, turned = paired_difference(first, second), paired_difference(second, first)
    assert found == paired_difference(first, second)
    assert found.value == -turned.value
    assert found.p_value == pytest.approx(turned.p_value, abs=0.005)


def test_chance_alone_is_called_significant_once_in_twenty_times() -> None:
    alarms = [
        paired_difference(scores(80, 2 * seed, 0.5), scores(80, 2 * seed + 1, 0.5)).is_significant
        for seed in range(200)
    ]
    assert sum(alarms) <= 20


def test_rows_are_paired_by_digest_in_any_order_and_twice_if_there_twice() -> None:
    first, second = pair_rows(
        ["a", "b", "b", "c"], np.array([1.0, 2, 3, 4]), ["b", "x", "a", "b"], np.array([10.0, 20, 30, 40])
    )
    assert first.tolist() == [1, 2, 3]
    assert second.tolist() == [30, 10, 40]


def test_p_values_of_several_comparisons_are_raised() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5]) == [0.5]
