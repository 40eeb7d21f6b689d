"""Run trials as processes on this machine, each with a share of its threads and GPUs."""

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
from pipeline.tuning import usable_cores

#: The folder that `python -m pipeline` is imported from.
ROOT = Path(__file__).parent.parent.parent


class Job(Protocol):
    """A running trial."""

    @property
    def handle(self) -> str:
        """An identifier by which another process can find the job."""

    @property
    def exit_code(self) -> int | None:
        """The exit code of a job that has ended; None while it runs, or if it is unknown."""

    def is_running(self) -> bool:
        """Return whether the job has not ended."""

    def stop(self) -> None:
        """Ask the job to save and exit (SIGTERM)."""

    def kill(self) -> None:
        """Kill the job."""


class Launcher(Protocol):
    """An interface for starting trials."""

    def launch(self, work: "Work", *, slot: int) -> Job:
        """Start a trial; `slot` is its number among the trials that run at once."""

    def find(self, handle: str) -> Job | None:
        """Return a job that an earlier process started, if it is still running."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The command of a trial.

    Args:
        stage: the stage to run.
        words: the overrides of the trial, including its name.
        folder: the folder of its run.
        log: the file that receives its output.
    """

    stage: str
    words: list[str]
    folder: Path
    log: Path

    def command(self) -> list[str]:
        """Return the command line, which resumes the run if it has a checkpoint."""
        resume = [f"resume={quoted(self.folder.name)}"] if can_resume(self.folder) else []
        return [sys.executable, "-m", "pipeline", self.stage, *self.words, *resume, "--json"]


def import_path(environ: Mapping[str, str]) -> str:
    """Return a PYTHONPATH with which the command finds this code from any working folder."""
    return os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))


class Processes:
    """Runs trials as processes on this machine.

    Each has its own session, so that Ctrl-C reaches only the sweep, which then stops its trials.
    """

    def __init__(self, n_slots: int, environ: Mapping[str, str]) -> None:
        self._n_slots, self._environ = n_slots, environ

    def launch(self, work: Work, *, slot: int) -> Job:
        """Start a process with the threads and GPUs of its slot."""
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
        """Return the process with this id, if it has the recorded start time."""
        number, _, began = handle.partition("@")
        try:
            process = psutil.Process(int(number))
            return ProcessJob(process) if str(process.create_time()) == began else None
        except (psutil.NoSuchProcess, ValueError):
            return None


class ProcessJob:
    """A process of this sweep, or one that an earlier sweep started."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.handle = f"{process.pid}@{process.create_time()}"
        self.exit_code: int | None = None

    def is_running(self) -> bool:
        """Return whether the process is running; an ended child is reaped, and other zombies do not count."""
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
        """Ask the process to save and exit."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        try:
            self._process.send_signal(number)
        except psutil.NoSuchProcess:
            return  # it has already ended


def share(slot: int, n_slots: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for a trial's share of threads and GPUs; user settings are kept."""
    if n_slots == 1:
        return {}
    given = {}
    if "OMP_NUM_THREADS" not in environ:
        given["OMP_NUM_THREADS"] = str(max(1, usable_cores() // n_slots))
    gpus = _gpus(environ)
    if mine := gpus[slot % max(1, len(gpus)) :: n_slots]:
        given["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
    return given


def _gpus(environ: Mapping[str, str]) -> list[str]:
    """Return the GPUs that this process may use."""
    if "CUDA_VISIBLE_DEVICES" in environ:
        return [name for name in environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
