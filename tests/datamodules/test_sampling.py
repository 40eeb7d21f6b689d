from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.sampling import ResumableBatchSampler, sequential_batches

sizes = st.integers(1, 40)


def slow_stream(n_rows: int, seed: int, n_samples: int) -> list[int]:
    """The obvious way: write all epochs down one after the other."""
    keys: list[int] = []
    epoch = 0
    while len(keys) < n_samples:
        order = np.arange(n_rows)
        np.random.default_rng((seed, epoch)).shuffle(order)
        keys += [epoch * n_rows + int(row) for row in order]
        epoch += 1
    return keys[:n_samples]


def first_batches(n_batches: int, n_rows: int, **options: int) -> list[list[int]]:
    return list(islice(ResumableBatchSampler(n_rows, **options), n_batches))  # type: ignore[arg-type]


@given(sizes, sizes, st.integers(1, 4), st.integers(0, 5))
def test_the_ranks_together_read_the_stream_in_order_and_share_nothing(
    n_rows: int, batch_size: int, world_size: int, seed: int
) -> None:
    ranks = [
        first_batches(5, n_rows, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    together = [key for step in zip(*ranks, strict=True) for batch in step for key in batch]
    assert together == slow_stream(n_rows, seed, len(together))


@given(sizes, sizes, st.integers(0, 5))
def test_each_epoch_is_a_permutation_of_the_rows(n_rows: int, batch_size: int, seed: int) -> None:
    batches = first_batches(3 * n_rows // batch_size + 1, n_rows, batch_size=batch_size, seed=seed)
    keys = np.array([key for batch in batches for key in batch])
    for epoch in range(len(keys) // n_rows):
        part = keys[epoch * n_rows : (epoch + 1) * n_rows]
        assert set(part // n_rows) == {epoch}
        assert sorted(part % n_rows) == list(range(n_rows))


@given(sizes, sizes, st.integers(0, 20), st.integers(1, 3))
def test_starting_at_any_batch_equals_going_on_to_it(
    n_rows: int, batch_size: int, start: int, world_size: int
) -> None:
    options = {"batch_size": batch_size, "seed": 3, "rank": world_size - 1, "world_size": world_size}
    whole = first_batches(start + 4, n_rows, **options)
    assert first_batches(4, n_rows, start_batch=start, **options) == whole[start:]


def test_fewer_rows_than_a_batch_still_fill_every_batch() -> None:
    batches = first_batches(4, 3, batch_size=8, seed=0)
    assert [len(batch) for batch in batches] == [8] * 4
    assert len({key for batch in batches for key in batch}) == 32


def test_the_order_differs_between_epochs_and_between_seeds() -> None:
    one, two = first_batches(2, 100, batch_size=100, seed=0)
    assert one != [key - 100 for key in two]
    assert one != first_batches(1, 100, batch_size=100, seed=1)[0]


def test_without_shuffling_the_rows_come_in_order() -> None:
    sampler = ResumableBatchSampler(5, batch_size=3, seed=0, shuffle=False)
    assert list(islice(sampler, 3)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_the_thousand_millionth_batch_is_found_with_one_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    permuted: list[int] = []
    order = ResumableBatchSampler._ordered
    monkeypatch.setattr(
        ResumableBatchSampler, "_ordered", lambda self, epoch: (permuted.append(epoch), order(self, epoch))[1]
    )
    keys = next(iter(ResumableBatchSampler(100_000, batch_size=32, seed=0, start_batch=10**9)))
    assert {key // 100_000 for key in keys} == set(permuted) == {32 * 10**9 // 100_000}
    assert len(permuted) == 1


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4))
def test_validation_reads_every_row_once_over_all_ranks(
    n_rows: int, batch_size: int, world_size: int
) -> None:
    ranks = [sequential_batches(n_rows, batch_size, rank, world_size) for rank in range(world_size)]
    rows = [int(row) for batches in ranks for batch in batches for row in batch]
    assert sorted(rows) == list(range(n_rows))
    assert all(0 < len(batch) <= batch_size for batches in ranks for batch in batches)
    n_batches = [len(batches) for batches in ranks]
    assert max(n_batches) - min(n_batches) <= (n_rows % (batch_size * world_size) < world_size)


def test_one_rank_reads_validation_in_order_with_a_short_last_batch() -> None:
    assert [batch.tolist() for batch in sequential_batches(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(
    "wrong",
    [{"n_rows": 0}, {"batch_size": 0}, {"rank": 2, "world_size": 2}, {"seed": -1}, {"start_batch": -1}],
)
def test_values_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    options = {"n_rows": 4, "batch_size": 2, "seed": 0} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ResumableBatchSampler(options.pop("n_rows"), **options)  # type: ignore[arg-type]
