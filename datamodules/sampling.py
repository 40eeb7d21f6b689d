"""Which rows stand in which batch: a function of (seed, position), so that any batch can be sought."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


class ResumableBatchSampler:
    """An endless stream of batches of sample keys, able to start at any batch at once.

    Sample number p of the stream belongs to epoch p // N and is row perm(seed, epoch)[p % N]. Batch b of
    rank r covers the samples from (b * world_size + r) * batch_size on, so ranks share nothing and an epoch
    need not be a whole number of batches: a batch may hold the end of one epoch and the start of the next.

    A key is epoch * N + row: it names the row and the epoch, all that corruption may depend on.

    Raises:
        ValueError: no rows, or a size, rank or position out of range.
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
            raise ValueError(f"start_batch={start_batch}, seed={seed}; expected neither below 0")
        self.n_rows = n_rows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_batch = start_batch
        self.shuffle = shuffle
        # Half the memory of int64 where it is enough: the order of an epoch is the one thing held.
        self._dtype = np.uint32 if n_rows < 2**32 else np.int64
        self._epoch = -1
        self._rows: npt.NDArray[np.integer] = np.empty(0, np.int64)

    def keys(self, batch: int) -> npt.NDArray[np.int64]:
        """The keys (batch_size,) of this rank's batch number `batch`; costs at most one permutation."""
        epoch, offset = divmod((batch * self.world_size + self.rank) * self.batch_size, self.n_rows)
        parts: list[npt.NDArray[np.int64]] = []
        missing = self.batch_size
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
        """The rows in the order of one epoch; the last one asked for is kept."""
        if epoch != self._epoch:
            rows: npt.NDArray[np.integer] = np.arange(self.n_rows, dtype=self._dtype)
            if self.shuffle:
                np.random.default_rng((self.seed, epoch)).shuffle(rows)
            self._epoch, self._rows = epoch, rows
        return self._rows


def sequential_batches(
    n_rows: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[npt.NDArray[np.int64]]:
    """Each row once, in order, for validation: this rank's batches of row numbers; the last may be short.

    The ranks take turns. What does not fill a batch on every rank is divided evenly, so that all ranks have
    the same number of batches, except where fewer rows than ranks are left: then some ranks have one fewer.

    Raises:
        ValueError: no rows, or a size or rank out of range.
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
