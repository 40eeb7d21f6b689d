"""Batches of like lengths: the stream of the plain sampler in another order, and much less padding."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.features import padded_width
from datamodules.sampling import LengthBucketSampler, ResumableBatchSampler, by_length

Ints = np.ndarray
sizes = st.integers(1, 40)
few = st.integers(1, 4)


def lengths_of(n_rows: int) -> Ints:
    return np.random.default_rng(n_rows).geometric(0.1, n_rows)


def first_batches(n_batches: int, lengths: Ints, **options: int) -> list[list[int]]:
    return list(islice(LengthBucketSampler(lengths, **options), n_batches))  # type: ignore[arg-type]


def slow_epoch(lengths: Ints, epoch: int, seed: int, step: int, pool_steps: int) -> list[int]:
    """The obvious way: what completes the last step; pools, sorted, cut, shuffled; and the rest."""
    n_rows = len(lengths)
    rows = np.arange(n_rows)
    np.random.default_rng((seed, epoch)).shuffle(rows)
    left = list(map(int, rows))
    begun = epoch * n_rows % step
    head = [left.pop(0) for _ in range(min(n_rows, (step - begun) % step))]
    tail: list[int] = []
    while len(left) % step:
        tail.insert(0, left.pop())
    steps = []
    while left:
        pool, left = left[: pool_steps * step], left[pool_steps * step :]
        pool.sort(key=lambda row: lengths[row])
        steps += [pool[start : start + step] for start in range(0, len(pool), step)]
    order = np.random.default_rng((seed, epoch, 1)).permutation(len(steps)) if steps else []
    return [row + epoch * n_rows for row in [*head, *(row for i in order for row in steps[i]), *tail]]


@given(sizes, st.integers(1, 8), few, few, st.integers(0, 3))
def test_the_ranks_together_read_what_the_slow_order_says(
    n_rows: int, batch_size: int, world_size: int, pool_steps: int, seed: int
) -> None:
    lengths, step = lengths_of(n_rows), batch_size * world_size
    options = {"batch_size": batch_size, "seed": seed, "world_size": world_size, "pool_steps": pool_steps}
    ranks = [first_batches(12, lengths, rank=rank, **options) for rank in range(world_size)]
    together = [key for batches in zip(*ranks, strict=True) for batch in batches for key in batch]
    slow = [
        key
        for epoch in range(12 * step // n_rows + 1)
        for key in slow_epoch(lengths, epoch, seed, step, pool_steps)
    ]
    assert together == slow[: len(together)]


@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 5))
def test_every_row_comes_once_an_epoch_in_full_batches(n_rows: int, batch_size: int, seed: int) -> None:
    batches = first_batches(
        3 * n_rows // batch_size + 1, lengths_of(n_rows), batch_size=batch_size, seed=seed
    )
    assert {len(batch) for batch in batches} == {batch_size}
    keys = np.array([key for batch in batches for key in batch])
    for epoch in range(len(keys) // n_rows):
        part = keys[epoch * n_rows : (epoch + 1) * n_rows]
        assert set(part // n_rows) == {epoch}
        assert sorted(part % n_rows) == list(range(n_rows))


@given(sizes, sizes, st.integers(0, 20), st.integers(1, 3))
def test_starting_at_any_batch_equals_going_on_to_it(
    n_rows: int, batch_size: int, start: int, world_size: int
) -> None:
    lengths = lengths_of(n_rows)
    options = {"batch_size": batch_size, "seed": 3, "rank": world_size - 1, "world_size": world_size}
    whole = first_batches(start + 4, lengths, **options)
    assert first_batches(4, lengths, start_batch=start, **options) == whole[start:]


def test_the_thousand_millionth_batch_is_found_with_one_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    permuted: list[int] = []
    order = LengthBucketSampler._ordered
    monkeypatch.setattr(
        LengthBucketSampler, "_ordered", lambda self, epoch: (permuted.append(epoch), order(self, epoch))[1]
    )
    next(iter(LengthBucketSampler(lengths_of(100_000), batch_size=32, seed=0, start_batch=10**9)))
    assert permuted == [32 * 10**9 // 100_000]


def padding(batches: list[list[int]], lengths: Ints) -> float:
    """Share of a batch's places that hold padding, when each batch is as wide as its longest row."""
    parts = [lengths[np.array(batch) % len(lengths)] for batch in batches]
    return 1 - sum(part.sum() for part in parts) / sum(part.max() * len(part) for part in parts)


def test_less_than_an_eighth_of_the_padding_of_random_batches_is_left() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(2.5, 0.6, 20_000), 1, 128).astype(int)
    options = {"batch_size": 32, "seed": 0}
    at_random = list(islice(ResumableBatchSampler(len(lengths), **options), 625))  # type: ignore[arg-type]
    assert padding(first_batches(625, lengths, **options), lengths) < padding(at_random, lengths) / 8


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), max_size=60))
def test_rows_are_sorted_by_their_first_length_and_the_next_ones_rise_and_fall(
    rows: list[tuple[int, int, int]],
) -> None:
    order = by_length(np.array(rows, np.int64).reshape(-1, 3)).tolist()
    ranks = [sorted({row[column] for row in rows}) for column in range(2)]
    signs = [(1, *((-1) ** ranks[column].index(row[column]) for column in range(2))) for row in rows]
    slow = sorted(
        range(len(rows)),
        key=lambda i: [sign * length for sign, length in zip(signs[i], rows[i], strict=True)],
    )
    assert order == slow


@pytest.mark.parametrize(("source", "ratio"), [(12, 1.1), (300, 0.2)])
def test_sources_and_targets_are_both_padded_little(source: int, ratio: float) -> None:
    random = np.random.default_rng(0)
    sources = padded_width(random.lognormal(np.log(source), 0.3, 20_000))
    targets = padded_width(sources * ratio * random.lognormal(0, 0.2, 20_000))
    pairs = np.stack([sources, targets], axis=1)
    batches = first_batches(1250, pairs, batch_size=16, seed=0)
    by_total = first_batches(1250, pairs.sum(axis=1), batch_size=16, seed=0)
    for lengths in (sources, targets):
        assert padding(batches, lengths) < 0.6 * padding(by_total, lengths)


def test_the_ranks_of_a_step_have_like_lengths() -> None:
    lengths = np.arange(6400)
    ranks = [first_batches(100, lengths, batch_size=16, seed=1, rank=rank, world_size=4) for rank in range(4)]
    steps = [[key for batch in batches for key in batch] for batches in zip(*ranks, strict=True)]
    assert np.median([max(step) - min(step) for step in steps]) < 200


def test_long_and_short_batches_come_in_no_order() -> None:
    lengths = np.arange(3200)
    means = np.array([np.mean(batch) for batch in first_batches(100, lengths, batch_size=32, seed=0)])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


def test_the_batches_differ_between_epochs_and_between_seeds() -> None:
    lengths = lengths_of(96)
    batches = first_batches(6, lengths, batch_size=32, seed=0)
    sets = [frozenset(key % 96 for key in batch) for batch in batches]
    assert set(sets[:3]) != set(sets[3:])
    other = first_batches(3, lengths, batch_size=32, seed=1)
    assert {frozenset(batch) for batch in other} != set(sets[:3])


def test_a_curriculum_goes_from_the_shortest_fifth_to_all_rows_and_then_the_stream_begins() -> None:
    lengths = np.random.default_rng(0).permutation(1000)
    options = {"batch_size": 20, "seed": 3}
    batches = first_batches(104, lengths, curriculum_steps=100, **options)
    longest = [lengths[batch].max() for batch in batches[:100]]
    assert max(longest[:50]) < 200
    assert 450 < max(longest[70:76]) < 620
    assert max(longest[95:]) > 900
    assert len({key for batch in batches[:50] for key in batch}) > 190
    assert batches[100:] == first_batches(4, lengths, **options)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_curriculum_that_goes_on_anywhere_is_the_same_and_its_ranks_draw_apart(world_size: int) -> None:
    lengths = lengths_of(500)
    options = {"batch_size": 8, "seed": 1, "world_size": world_size, "curriculum_steps": 12}
    whole = first_batches(20, lengths, **options)
    for start in (1, 11, 12, 15):
        assert first_batches(20 - start, lengths, start_batch=start, **options) == whole[start:]
    if world_size > 1:
        assert first_batches(1, lengths, rank=1, **options) != whole[:1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"pool_steps": 0},
        {"curriculum_steps": -1},
        {"batch_size": 0},
        {"rank": 2, "world_size": 2},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LengthBucketSampler([1, 2, 3], **{"batch_size": 2, "seed": 0} | wrong)  # type: ignore[arg-type]


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="n_rows=0"):
        LengthBucketSampler([], batch_size=1, seed=0)
