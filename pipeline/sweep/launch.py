"""Trials as processes of this machine, each with its share of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from pipeline.config.grammar import quoted
from pipeline.files import open_to_append
from pipeline.sweep.watch import can_resume

#: The folder that `python -m pipeline` is imported from.
ROOT = Path(__file__).parent.parent.parent


class Job(Protocol):
    """A trial at work."""

    @property
    def handle(self) -> str:
        """What finds it again from another process."""

    @property
    def exit_code(self) -> int | None:
        """Of a job that has ended; None while it runs, and where nobody knows."""

    def is_running(self) -> bool:
        """Whether it has not ended."""

    def stop(self) -> None:
        """Ask it to save and end (SIGTERM)."""

    def kill(self) -> None:
        """End it now."""


class Launcher(Protocol):
    """Where trials run."""

    def launch(self, work: "Work", *, slot: int) -> Job:
        """Start a trial; `slot` counts the places of trials that run at once."""

    def find(self, handle: str) -> Job | None:
        """A job that an earlier process started, if it is still there."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a trial's process is given.

    Args:
        stage: the stage to run.
        words: the trial's own, and its name.
        folder: of its run.
        log: gets all that it says.
    """

    stage: str
    words: list[str]
    folder: Path
    log: Path

    def command(self) -> list[str]:
        """The command, which goes on with the run where there is a checkpoint of it."""
        resume = [f"resume={quoted(self.folder.name)}"] if can_resume(self.folder) else []
        return [sys.executable, "-m", "pipeline", self.stage, *self.words, *resume, "--json"]


def import_path(environ: Mapping[str, str]) -> str:
    """A PYTHONPATH with which the command finds this code in any working folder."""
    return os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))


class Processes:
    """Runs trials as processes here.

    Each is a session of its own: Ctrl-C is for the sweep, which tells its trials itself.
    """

    def __init__(self, n_slots: int, environ: Mapping[str, str]) -> None:
        self._n_slots, self._environ = n_slots, environ

    def launch(self, work: Work, *, slot: int) -> Job:
        """Start a process with the share of its slot."""
        environ = {**self._environ, **share(slot, self._n_slots, self._environ)}
        environ["PYTHONPATH"] = import_path(self._environ)
        with open_to_append(work.log) as file:
            process = psutil.Popen(
                work.command(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environ,
                start_new_session=True,
            )
        return ProcessJob(process)

    def find(self, handle: str) -> Job | None:
        """The process of that number, if it began at that time."""
        number, _, began = handle.partition("@")
        try:
            process = psutil.Process(int(number))
            return ProcessJob(process) if str(process.create_time()) == began else None
        except (psutil.NoSuchProcess, ValueError):
            return None


class ProcessJob:
    """A process: a child, or one that an earlier sweep left."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.handle = f"{process.pid}@{process.create_time()}"
        self.exit_code: int | None = None

    def is_running(self) -> bool:
        """Whether it works; a child that has ended is taken leave of, another's may stay as a zombie."""
        is_child = isinstance(self._process, psutil.Popen)
        try:
            self.exit_code = self._process.wait(timeout=0)
        except psutil.TimeoutExpired:
            return is_child or not self._is_zombie()
        return False

    def _is_zombie(self) -> bool:
        try:
            return bool(self._process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    def stop(self) -> None:
        """Ask it to save and end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        try:
            self._process.send_signal(number)
        except psutil.NoSuchProcess:
            return  # it has ended by itself


def share(slot: int, n_slots: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Threads and GPUs of one of several trials at once; what the user has set stays."""
    if n_slots == 1:
        return {}
    given = {}
    if "OMP_NUM_THREADS" not in environ:
        given["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // n_slots))
    gpus = _gpus(environ)
    if mine := gpus[slot % max(1, len(gpus)) :: n_slots]:
        given["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
    return given


def _gpus(environ: Mapping[str, str]) -> list[str]:
    """The GPUs that this process may use."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [name for name in environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
