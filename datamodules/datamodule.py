"""LightningDataModules that batch rows in an order which a resumed run continues exactly."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.collate import Batch, RowBatch
from datamodules.features import Feature, Features, padded_width
from datamodules.sampling import LengthBucketSampler, ResumableBatchSampler, sequential_batches

Collate = Callable[[RowBatch], Batch]
Keys = npt.NDArray[np.int64]
Fetch = Callable[[Keys], Any]
"""Maps sample keys (epoch * N + row) to the input of a collate function; pickled for worker processes."""


class Rows(Protocol):
    """The interface of token rows that the loaders need."""

    def __len__(self) -> int: ...

    def take(self, indices: npt.ArrayLike, /) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the ids (n, L) and segment ids (n, L) of these rows."""
        ...


@dataclass(frozen=True)
class _PackedRows:
    """Fetches token rows by sample key."""

    rows: Rows

    def __call__(self, keys: Keys) -> RowBatch:
        return RowBatch(*self.rows.take(keys % len(self.rows)), keys)


@dataclass(frozen=True)
class _Examples:
    """Fetches features by sample key."""

    features: Features

    def __call__(self, keys: Keys) -> list[Feature]:
        return self.features.take(keys % len(self.features))


class _Fetched(Dataset[Any]):
    """A dataset that fetches a whole batch at a time."""

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch

    def __getitem__(self, key: int) -> Any:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[int]) -> Any:
        return self.fetch(np.asarray(keys, np.int64))


class BatchLoader:
    """Iterates a DataLoader whose sampler Lightning does not replace: its batches are those of the rank.

    The DataLoader draws the base seed of its workers from a separate generator, so that validation does not
    change the global random state.
    """

    def __init__(
        self,
        fetch: Fetch,
        batches: Iterable[list[int]],
        *,
        collate: Callable[[Any], Batch],
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        self._fetch = fetch
        self._batches = batches
        self._collate = collate
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._loader: DataLoader[Any] | None = None
        # Lightning's teardown finds the workers by this name, ends them and sets it to None, also after
        # errors. Without that, garbage collection would wait 5 s for each of them.
        self._iterator: Iterator[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None or self._iterator is None:
            dataset: Dataset[Any] = _Fetched(self._fetch)
            self._loader = DataLoader(
                dataset,
                batch_sampler=self._batches,
                collate_fn=cast(Callable[[list[Any]], Batch], self._collate),
                num_workers=self._num_workers,
                pin_memory=self._pin_memory,
                persistent_workers=self._num_workers > 0,
                generator=torch.Generator(),
            )
        self._iterator = iter(self._loader)
        return self._iterator


class SizedBatchLoader(BatchLoader):
    """A BatchLoader over finitely many batches."""

    def __init__(self, fetch: Fetch, batches: list[list[int]], **options: Any) -> None:
        super().__init__(fetch, batches, **options)
        self._n_batches = len(batches)

    def __len__(self) -> int:
        return self._n_batches


class _ResumableDataModule(LightningDataModule):
    """Counts the rows that training has used, not those that workers have prefetched.

    The trainer must count steps, not epochs: `max_steps=...`, `check_val_every_n_epoch=None` and
    `val_check_interval=n`, which counts batches. After `load_state_dict`, training starts at exactly the next
    row. The number of ranks and the batch size may differ, if the number of rows per step is the same.
    """

    def __init__(self, *, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.rows_done = 0
        self._first_rows_per_pass: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the number of rows that all ranks have used, and the initial number of rows per pass."""
        return {"rows_done": self.rows_done, "first_rows_per_pass": self._order_rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the rows that are done."""
        if "rows_done" in state_dict:
            self.rows_done = int(state_dict["rows_done"])
            self._first_rows_per_pass = int(state_dict["first_rows_per_pass"])
        else:  # older checkpoints count batches per rank
            self.rows_done = int(state_dict["batches_done"]) * self._rows_per_pass

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count the rows of a batch when training uses it, not when it is prefetched."""
        if self.trainer is not None and self.trainer.training:
            self.rows_done += self._rows_per_pass
        return batch

    @property
    def _rows_per_pass(self) -> int:
        """Number of rows in one forward pass of all ranks."""
        return self.batch_size * self._ranks()[1]

    @property
    def _order_rows(self) -> int:
        """Number of rows in the first forward passes, on which the order of rows may depend."""
        return self._first_rows_per_pass or self._rows_per_pass

    def _position(self) -> dict[str, Any]:
        """Return the position of this rank in the stream, as arguments of a sampler.

        Raises:
            ValueError: if the rows that are done are not whole batches of all ranks.
        """
        rank, world_size = self._ranks()
        start_batch, rest = divmod(self.rows_done, self._rows_per_pass)
        if rest:
            raise ValueError(
                f"batch_size={self.batch_size}; expected {self.rows_done} rows to be whole batches of "
                f"{world_size} ranks"
            )
        return {
            "batch_size": self.batch_size,
            "rank": rank,
            "world_size": world_size,
            "start_batch": start_batch,
        }

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _options(self, collate: Callable[[Any], Batch]) -> dict[str, Any]:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {"collate": collate, "num_workers": self.num_workers, "pin_memory": on_cuda}


class PretrainDataModule(_ResumableDataModule):
    """Batches for pretraining: an endless training stream, and validation over every row once.

    `collate` makes a training batch, and `validation_collate` a validation batch, whose keys are row numbers,
    so that its corruption is always the same.

    Raises:
        ValueError: if there are no rows, or a size is below 1.
    """

    def __init__(
        self,
        train_rows: Rows,
        validation_rows: Rows,
        *,
        collate: Collate,
        validation_collate: Collate,
        batch_size: int,
        validation_batch_size: int,
        seed: int,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        self.train_rows = train_rows
        self.validation_rows = validation_rows
        self.collate = collate
        self.validation_collate = validation_collate
        self.validation_batch_size = validation_batch_size
        self.seed = seed
        for rank_rows, size in ((train_rows, batch_size), (validation_rows, validation_batch_size)):
            sequential_batches(len(rank_rows), size)

    def train_dataloader(self) -> BatchLoader:
        """Return an endless loader that starts after the rows that are done."""
        sampler = ResumableBatchSampler(len(self.train_rows), seed=self.seed, **self._position())
        return BatchLoader(_PackedRows(self.train_rows), sampler, **self._options(self.collate))

    def val_dataloader(self) -> SizedBatchLoader:
        """Return a loader of every validation row once, in order, distributed over the ranks."""
        batches = sequential_batches(len(self.validation_rows), self.validation_batch_size, *self._ranks())
        keys = [batch.tolist() for batch in batches]
        return SizedBatchLoader(
            _PackedRows(self.validation_rows), keys, **self._options(self.validation_collate)
        )


class FinetuneDataModule(_ResumableDataModule):
    """Batches for fine-tuning: an endless stream of examples of similar length, and validation over all.

    Args:
        train: examples to train on.
        validation: examples to validate on; the longest come first, so that a lack of memory shows at once.
        collate: pads examples to a batch.
        curriculum_batches: number of batches per rank at the beginning that progress from the shortest
            examples to all.

    Raises:
        ValueError: if a size is below 1.
    """

    def __init__(
        self,
        train: Features,
        validation: Features,
        *,
        collate: Callable[[Sequence[Feature]], Batch],
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        curriculum_batches: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        self.curriculum_batches = curriculum_batches
        self.train = train
        self.validation = validation
        self.collate = collate
        self.seed = seed
        for features in (train, validation):
            sequential_batches(len(features), batch_size)

    def train_dataloader(self) -> BatchLoader:
        """Return an endless loader that starts after the rows that are done."""
        sampler = LengthBucketSampler(
            padded_width(self.train.lengths),
            seed=self.seed,
            curriculum_steps=self.curriculum_batches * self._rows_per_pass // self._order_rows,
            step_rows=self._order_rows,
            **self._position(),
        )
        return BatchLoader(_Examples(self.train), sampler, **self._options(self.collate))

    def val_dataloader(self) -> SizedBatchLoader:
        """Return a loader of every validation example once, longest first, distributed over the ranks."""
        longest_first = np.argsort(-self.validation.lengths.sum(axis=1), kind="stable")
        batches = sequential_batches(len(self.validation), self.batch_size, *self._ranks())
        keys = [longest_first[batch].tolist() for batch in batches]
        return SizedBatchLoader(_Examples(self.validation), keys, **self._options(self.collate))
