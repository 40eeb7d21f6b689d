"""Sharded checkpoints, written while training goes on.

Each process copies its shards and trains on. One thread writes the copy (`torch.distributed.checkpoint`), a
second one waits for it, hashes the files and publishes the checkpoint when all processes have written theirs.
Until then, the previous checkpoint stays in place.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import distributed

from modules.sharding import is_sharded
from pipeline.errors import CheckpointError
from pipeline.runs.checkpoint_files import AtomicCheckpointIO, cannot_write
from pipeline.runs.shard_folders import SHARDS, discard_draft, publish
from pipeline.runs.shards import Place, finish_writing, start_writing, take_out

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class _Save:
    """A checkpoint that is being written.

    Args:
        path: where the checkpoint is published.
        folder: the folder of its sharded tensors.
        rest: a copy of everything else.
        places: the positions of the sharded tensors.
        group: the processes, for collective operations of this save.
        written: ends when all processes have written their shards.
        before: the save that has to be published first.
    """

    path: Path
    folder: Path
    rest: dict[str, Any]
    places: Sequence[Place]
    group: "ProcessGroup"
    written: "Future[Any]"
    before: "Future[None] | None"


class Saves:
    """The saves of this process: at most one pending per path, published in the order in which they began.

    `last` names the best validation, so that `best` has to be published before it. Each path has a process
    group of its own: collective operations of two saves, or of a save and of training, must not mix.
    """

    def __init__(self) -> None:
        self._files = AtomicCheckpointIO()
        self._publisher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish")
        self._groups: dict[Path, ProcessGroup] = {}
        self._pending: dict[Path, Future[None]] = {}
        self._latest: Future[None] | None = None

    def start(self, checkpoint: dict[str, Any], path: Path, folder: Path) -> None:
        """Copy `checkpoint`, and start to write the copy; a collective operation.

        The previous save to `path` has to be complete.

        Args:
            checkpoint: the checkpoint, with shards of this process.
            path: where it is published.
            folder: an unused folder for its shards, the same in all processes.
        """
        assert path not in self._pending
        if path not in self._groups:
            self._groups[path] = distributed.new_group(backend="gloo")
        rest, tensors = take_out(checkpoint, is_sharded)
        save = _Save(
            path=path,
            folder=folder,
            rest=copy.deepcopy(rest) if distributed.get_rank() == 0 else {},
            places=list(tensors),
            group=self._groups[path],
            written=start_writing(tensors, folder, self._groups[path]),
            before=self._latest,
        )
        self._latest = self._pending[path] = self._publisher.submit(self._complete, save)

    def finish(self, path: Path | None = None) -> None:
        """Wait for the save to `path`, or for all; a collective operation.

        Raises:
            CheckpointError: in all processes, if a file could not be written; the old checkpoint is intact.
        """
        for each in list(self._pending) if path is None else [path]:
            if each in self._pending:
                self._pending.pop(each).result()

    @property
    def has_failed(self) -> bool:
        """Whether a pending save has failed."""
        return any(save.done() and save.exception() is not None for save in self._pending.values())

    def _complete(self, save: _Save) -> None:
        rank = distributed.get_rank()
        try:
            if save.before is not None:
                save.before.result()
            sums = _in_all(save, lambda: finish_writing(save.written, save.folder, rank))
            _in_all(save, lambda: self._publish(save, sums) if rank == 0 else None)
        except BaseException:
            wait([save.written])
            if rank == 0:
                discard_draft(save.folder)
            raise

    def _publish(self, save: _Save, sums: Sequence[dict[str, str]]) -> None:
        publish(save.folder)
        save.rest[SHARDS] = {
            "folder": save.folder.name,
            "sha256": {name: digest for each in sums for name, digest in each.items()},
            "tensors": [list(place) for place in save.places],
            "processes": len(sums),
        }
        self._files.save_checkpoint(save.rest, save.path)


def _in_all(save: _Save, step: Callable[[], Result]) -> list[Result]:
    """Run `step` in each process, and return the results in order of rank.

    Raises:
        CheckpointError: in all processes, if one of them could not write.
    """
    result: Result | CheckpointError
    try:
        result = step()
    except OSError as error:
        result = cannot_write(save.folder, error)
    except CheckpointError as error:
        result = error
    results: list[Any] = [None] * save.group.size()
    distributed.all_gather_object(results, result, group=save.group)
    for each in results:
        if isinstance(each, CheckpointError):
            raise each
    return results
