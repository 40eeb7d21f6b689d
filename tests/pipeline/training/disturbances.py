"""Callbacks that disturb a training: a process dies, a signal arrives, a disk is slow or full."""

import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch.distributed.checkpoint import FileSystemWriter

from pipeline.runs.shard_folders import draft_folder
from pipeline.training.background import finish_saves, has_failed_save
from tests.waiting import LIMIT_S, wait_until


class KillAfter(Callback):
    """Kills process 1, or all, with SIGKILL, after the batch in which this step ended."""

    def __init__(self, step: int, *, all_of_them: bool) -> None:
        self.step, self.all_of_them = step, all_of_them

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= self.step and (self.all_of_them or trainer.global_rank == 1):
            os.kill(os.getpid(), signal.SIGKILL)


class SignalAt(Callback):
    """Sends SIGTERM to process 1 when this step ends."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


class SlowDisk(Callback):
    """Holds back the shards of one folder until a step has ended, or forever."""

    def __init__(self, folder: Path, until: int | None) -> None:
        self.folder, self.until = folder, until
        self.ended_before: list[int] = []
        self._may_write = threading.Event()

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        write = FileSystemWriter.write_data

        def write_slowly(writer: FileSystemWriter, *args: Any) -> Any:
            if Path(writer.path) == draft_folder(self.folder):
                assert self._may_write.wait(LIMIT_S), "training waits for its checkpoint"
                FileSystemWriter.write_data = write
            return write(writer, *args)

        FileSystemWriter.write_data = write_slowly

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._may_write.is_set() and not self.folder.exists():
            self.ended_before.append(trainer.global_step)
        if trainer.global_step == self.until:
            self._may_write.set()


class FullDisk(Callback):
    """The disk of process 1 is full after this step; four steps later, both know what could not be saved."""

    def __init__(self, step: int) -> None:
        self.step = step
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            finish_saves(trainer)
            if trainer.global_rank == 1:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, self._limits[1]))
        if trainer.global_step == self.step + 4:
            wait_until(lambda: has_failed_save(trainer), "a save in the background has failed")

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
