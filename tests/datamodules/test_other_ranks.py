"""A stream that is continued with other ranks and batch sizes has the same rows in the same order."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.sampling import LengthBucketSampler, ResumableBatchSampler

Make = Callable[..., ResumableBatchSampler]

N_ROWS, SEED = 40, 7
#: The rows of both streams of `N_ROWS` rows and `SEED`, written down: another order is another training.
FIRST_64 = [
    *(4, 0, 28, 20, 30, 10, 12, 32, 19, 9, 14, 22, 27, 38, 3, 24),
    *(39, 26, 13, 17, 18, 36, 35, 37, 8, 7, 1, 33, 15, 29, 6, 16),
    *(23, 25, 5, 2, 31, 34, 21, 11, 66, 65, 64, 67, 40, 70, 52, 43),
    *(78, 74, 72, 46, 56, 73, 75, 68, 57, 47, 42, 48, 63, 55, 50, 60),
]
#: With lengths, and 16 rows of a curriculum first.
FIRST_64_BY_LENGTH = [
    *(8, 0, 31, 17, 34, 8, 34, 0, 11, 11, 0, 28, 31, 31, 0, 17),
    *(0, 17, 14, 28, 8, 22, 39, 19, 36, 33, 16, 30, 13, 10, 27, 24),
    *(7, 4, 38, 18, 35, 1, 32, 15, 12, 29, 9, 26, 6, 20, 3, 37),
    *(23, 25, 5, 2, 31, 34, 21, 11, 66, 65, 64, 67, 40, 70, 52, 43),
]


def plain(n_rows: int = N_ROWS, **place: Any) -> ResumableBatchSampler:
    return ResumableBatchSampler(n_rows, seed=SEED, **place)


def by_length(n_rows: int = N_ROWS, **place: Any) -> LengthBucketSampler:
    lengths = [11 * row % 17 + 1 for row in range(n_rows)]
    return LengthBucketSampler(lengths, seed=SEED, step_rows=16, curriculum_steps=1, **place)


def rows_of(make: Make, first: int, end: int, *, batch_size: int, world_size: int, **of: int) -> list[int]:
    """What all ranks together read from sample `first` up to `end`, batch by batch, rank by rank."""
    at_once = batch_size * world_size
    batches = range(first // at_once, end // at_once)
    ranks = [
        make(batch_size=batch_size, world_size=world_size, rank=rank, **of) for rank in range(world_size)
    ]
    return [int(key) for batch in batches for rank in ranks for key in rank.keys(batch)]


@pytest.mark.parametrize(("make", "frozen"), [(plain, FIRST_64), (by_length, FIRST_64_BY_LENGTH)])
def test_two_then_four_then_one_rank_read_the_first_64_rows_that_are_written_down(
    make: Make, frozen: list[int]
) -> None:
    read = rows_of(make, 0, 16, batch_size=8, world_size=2)
    read += rows_of(make, 16, 48, batch_size=4, world_size=4)
    read += rows_of(make, 48, 64, batch_size=8, world_size=1)  # two passes of eight
    assert read == frozen


@pytest.mark.parametrize("make", [plain, by_length])
@given(
    n_rows=st.integers(1, 70),
    ways=st.lists(st.sampled_from([(16, 1), (8, 2), (8, 1), (4, 4), (4, 2), (2, 4), (1, 16)]), max_size=5),
)
def test_any_change_of_ranks_and_batch_sizes_between_steps_keeps_the_order(
    make: Make, n_rows: int, ways: list[tuple[int, int]]
) -> None:
    read: list[int] = []
    for step, (batch_size, world_size) in enumerate(ways):
        read += rows_of(
            make, step * 16, step * 16 + 16, batch_size=batch_size, world_size=world_size, n_rows=n_rows
        )
    whole = rows_of(make, 0, 16 * len(ways), batch_size=16, world_size=1, n_rows=n_rows)
    assert read == whole


def test_without_the_rows_of_a_step_at_the_beginning_lengths_are_sorted_otherwise() -> None:
    lengths = np.arange(N_ROWS)
    first, other = (
        LengthBucketSampler(lengths, seed=SEED, batch_size=size, world_size=1).keys(0) for size in (8, 4)
    )
    assert first[:4].tolist() != other.tolist()
