"""Samplers whose batches are a function of (seed, position), so that training can start at any batch."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

#: The fraction of the rows with which a curriculum begins.
SHORTEST = 0.2


class ResumableBatchSampler:
    """An endless stream of batches of sample keys that can start at any batch at once.

    Sample number p of the stream is row perm(seed, epoch)[p % N] of epoch p // N. Batch b of rank r covers
    the samples from (b * world_size + r) * batch_size on, so that ranks share no samples. An epoch need not
    be a whole number of batches: a batch may contain the end of one epoch and the start of the next.

    The rows of a step are those of all ranks and of all forward passes in it. While their number is the same,
    a stream may be continued with other numbers of ranks and batch sizes: each step has the same rows.

    A key is epoch * N + row. It identifies the row and the epoch, on which corruption may depend.

    Raises:
        ValueError: if there are no rows, or a size, rank or position is out of range.
    """

    def __init__(
        self,
        n_rows: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
        shuffle: bool = True,
    ) -> None:
        _check(n_rows, batch_size, rank, world_size)
        if start_batch < 0 or seed < 0:
            raise ValueError(f"start_batch={start_batch}, seed={seed}; expected both at least 0")
        self.n_rows = n_rows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_batch = start_batch
        self.shuffle = shuffle
        # The order of an epoch is kept in memory; uint32 takes half of int64.
        self._dtype = np.uint32 if n_rows < 2**32 else np.int64
        self._epoch = -1
        self._rows: npt.NDArray[np.integer] = np.empty(0, np.int64)

    def keys(self, batch: int) -> npt.NDArray[np.int64]:
        """Return the keys (batch_size,) of this rank's batch; this computes at most one new permutation."""
        return self._stream((batch * self.world_size + self.rank) * self.batch_size, self.batch_size)

    def _stream(self, first: int, n_samples: int) -> npt.NDArray[np.int64]:
        """Return the keys (n_samples,) that start with sample number `first`."""
        epoch, offset = divmod(first, self.n_rows)
        parts: list[npt.NDArray[np.int64]] = []
        missing = n_samples
        while missing:
            rows = self._order(epoch)[offset : offset + missing]
            parts.append(rows.astype(np.int64) + epoch * self.n_rows)
            missing -= len(rows)
            epoch, offset = epoch + 1, 0
        return np.concatenate(parts)

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.start_batch
        while True:
            yield self.keys(batch).tolist()
            batch += 1

    def _order(self, epoch: int) -> npt.NDArray[np.integer]:
        """Return the rows in the order of an epoch; the last order is cached."""
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._ordered(epoch)
        return self._rows

    def _ordered(self, epoch: int) -> npt.NDArray[np.integer]:
        rows: npt.NDArray[np.integer] = np.arange(self.n_rows, dtype=self._dtype)
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(rows)
        return rows


class LengthBucketSampler(ResumableBatchSampler):
    """The same stream, with epochs ordered so that a batch has rows of similar length and little padding.

    The permutation of (seed, epoch) is cut into pools of `pool_steps` steps (here, a step is one batch of
    every rank). Each pool is sorted (`by_length`) and cut into steps, and these are shuffled over the whole
    epoch. So every batch is full, the ranks of a step have similar lengths, and every row occurs once per
    epoch. At both ends of an epoch, rows that do not fill a step stay in the order of the permutation: the
    step that contains the end of an epoch and the start of the next has mixed lengths.

    `curriculum_steps` adds steps before the first epoch. In their first half, they draw from the shortest
    fifth of the rows, then from a linearly growing fraction, and finally from all rows. What short rows teach
    is learned much sooner from them alone.

    Args:
        lengths: the length (N,) of each row, or the lengths (N, S) of its S sequences, as integers.
        step_rows: number of rows in such a step, on which the order depends; None: `batch_size * world_size`.
            A stream that is continued with another batch size or number of ranks keeps its initial value.

    Raises:
        ValueError: like `ResumableBatchSampler`, or if `pool_steps` or `step_rows` is below 1, or
            `curriculum_steps` below 0.

    Source: Bengio et al. 2009, "Curriculum Learning", section 5; Platanios et al. 2019, "Competence-based
    Curriculum Learning for Neural Machine Translation", section 3 (length as difficulty).
    """

    def __init__(  # noqa: PLR0913 - a place in a stream, and the order of the stream
        self,
        lengths: npt.ArrayLike,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
        pool_steps: int = 200,
        curriculum_steps: int = 0,
        step_rows: int | None = None,
    ) -> None:
        given = np.asarray(lengths, np.int64)
        self.lengths = given[:, np.newaxis] if given.ndim == 1 else given
        self.step_rows = batch_size * world_size if step_rows is None else step_rows
        if pool_steps < 1 or (step_rows is not None and step_rows < 1):
            raise ValueError(f"pool_steps={pool_steps}, step_rows={step_rows}; expected both at least 1")
        if curriculum_steps < 0:
            raise ValueError(f"curriculum_steps={curriculum_steps}; expected 0 or more")
        self.pool_steps = pool_steps
        self.curriculum_steps = curriculum_steps
        self._shortest_first = np.argsort(self.lengths.sum(axis=1), kind="stable")
        super().__init__(
            len(self.lengths),
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            start_batch=start_batch,
        )

    def _stream(self, first: int, n_samples: int) -> npt.NDArray[np.int64]:
        """Return the keys (n_samples,); those of the curriculum have epoch 0."""
        easy = self.curriculum_steps * self.step_rows
        parts: list[npt.NDArray[np.int64]] = []
        end = first + n_samples
        while first < min(end, easy):
            step, offset = divmod(first, self.step_rows)
            part = self._easy_step(step)[offset : offset + end - first]
            parts.append(part)
            first += len(part)
        if first < end:
            parts.append(super()._stream(first - easy, end - first))
        return np.concatenate(parts)

    def _easy_step(self, step: int) -> npt.NDArray[np.int64]:
        """Return the keys (step_rows,) of a step of the curriculum."""
        share = max(SHORTEST, SHORTEST + (1 - SHORTEST) * (2 * step / self.curriculum_steps - 1))
        random = np.random.default_rng((self.seed, step, 2))
        places = random.integers(math.ceil(share * self.n_rows), size=self.step_rows)
        return self._shortest_first[places]

    def _ordered(self, epoch: int) -> npt.NDArray[np.integer]:
        rows = super()._ordered(epoch)
        step = self.step_rows
        first = -epoch * self.n_rows % step  # the start of the first step with rows of this epoch only
        n_steps = max(0, self.n_rows - first) // step
        if not n_steps:
            return rows
        whole = rows[first : first + n_steps * step]
        pool = self.pool_steps * step
        for start in range(0, len(whole), pool):
            part = whole[start : start + pool]
            part[:] = part[by_length(self.lengths[part])]
        steps = np.random.default_rng((self.seed, epoch, 1)).permutation(n_steps)
        whole[:] = whole.reshape(n_steps, step)[steps].reshape(-1)
        return rows


def by_length(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the order of rows (N,) whose sequences have `lengths` (N, S): neighbours are similar in each.

    Rows are sorted by the first length, those that agree in it by the second, and so on. The second length
    ascends for the smallest first length, descends for the next one, and so on in turn, so that it does not
    jump where the first one changes.
    """
    keys: list[npt.NDArray[np.int64]] = []
    rank = np.zeros(len(lengths), np.int64)
    for column in lengths.T:
        keys.append(np.where(rank % 2, -column, column))
        rank = np.unique(column, return_inverse=True)[1]
    return np.lexsort(keys[::-1])


def sequential_batches(
    n_rows: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[npt.NDArray[np.int64]]:
    """Return this rank's batches of row numbers for validation over each row once, in order.

    Batches are distributed over the ranks in turn. The rows that do not fill a batch on every rank are
    divided evenly, so that all ranks have the same number of batches; if fewer rows than ranks are left, some
    ranks have one fewer.

    Raises:
        ValueError: if there are no rows, or a size or rank is out of range.
    """
    _check(n_rows, batch_size, rank, world_size)
    rows = np.arange(n_rows)
    n_full = n_rows // (batch_size * world_size)
    full = rows[: n_full * batch_size * world_size].reshape(n_full, world_size, batch_size)
    rest = np.array_split(rows[full.size :], world_size)[rank]
    return [*full[:, rank], *([rest] if len(rest) else [])]


def _check(n_rows: int, batch_size: int, rank: int, world_size: int) -> None:
    if n_rows < 1 or batch_size < 1:
        raise ValueError(f"n_rows={n_rows}, batch_size={batch_size}; expected both at least 1")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank}, world_size={world_size}; expected 0 <= rank < world_size")
