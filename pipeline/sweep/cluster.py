"""Trials as jobs of a cluster, handed over by submitit, the library under Hydra's submitit launcher."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pipeline.errors import ConfigError, RunError
from pipeline.files import open_to_append
from pipeline.sweep.launch import Job, Work, import_path
from pipeline.sweep.options import SlurmOptions
from pipeline.sweep.watch import can_resume

if TYPE_CHECKING:
    import submitit

#: Options that submitit has for every cluster; all others are Slurm's own.
_SHARED = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")
_LOOK_EVERY_S = 0.2


class TrialCommand:
    """What a job runs: the command of a trial. When its time is over, it is saved and goes on later."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the command to its end; returns its exit code."""
        folder = self._work.folder
        if folder.exists() and not can_resume(folder):  # its time was over before it could save anything
            shutil.rmtree(folder)
        with open_to_append(self._work.log) as log:
            self._process = subprocess.Popen(
                self._work.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environ(),
                preexec_fn=_ignore_warning,  # noqa: PLW1509 - this process has no threads
            )
        try:
            while (code := self._process.poll()) is None:
                time.sleep(_LOOK_EVERY_S)
        except BaseException:
            self._process.terminate()
            raise
        return code

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Called by submitit shortly before the time is over: save, and come again."""
        import submitit

        if self._process is not None:
            process = psutil.Process(self._process.pid)
            process.terminate()
            process.wait()
        return submitit.helpers.DelayedSubmission(TrialCommand(self._work))


def _environ() -> dict[str, str]:
    """The job's environment, with as many threads as it was given cores.

    A trial starts the processes that it needs: with what Slurm tells, Lightning would leave that to srun.
    """
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    if (cores := os.environ.get("SLURM_CPUS_ON_NODE")) is not None:
        environ.setdefault("OMP_NUM_THREADS", cores)
    return environ


def _ignore_warning() -> None:
    """Slurm warns every process of a job; only submitit's is to hear it, which then lets the trial save."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


class Cluster:
    """Hands trials over to Slurm; or, as `submitit_local`, to submitit's own processes on this machine."""

    def __init__(self, kind: str, options: SlurmOptions, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder, self._environ = folder.absolute(), environ
        self._kind = kind.removeprefix("submitit_")
        self._executor = _executor(self._kind, options, self._folder)

    def launch(self, work: Work, *, slot: int) -> Job:
        """Submit a trial; the cluster gives it its share, whatever its slot.

        Raises:
            RunError: the cluster refuses the job.
        """
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        del slot
        try:
            with submitit.helpers.environment_variables(PYTHONPATH=import_path(self._environ)):
                return ClusterJob(self._executor.submit(TrialCommand(work)), work.log)
        except (FailedSubmissionError, FailedJobError, subprocess.CalledProcessError) as error:
            raise RunError(
                f"the cluster refuses the job ({str(error).strip().splitlines()[-1]})",
                "options that this cluster has",
                "correct sweep.slurm.*",
            ) from error

    def find(self, handle: str) -> Job | None:
        """The job of that number; a local one cannot be found again."""
        import submitit

        if self._kind != "slurm":
            return None
        return ClusterJob(submitit.SlurmJob(self._folder, handle), None)


class ClusterJob:
    """A job of submitit's."""

    def __init__(self, job: "submitit.Job[int]", log: Path | None) -> None:
        self._job, self._log = job, log
        self.handle = str(job.job_id)
        self.exit_code: int | None = None

    def is_running(self) -> bool:
        """Whether the cluster still has it; of one that has ended, the exit code or the reason is read."""
        if not self._job.done():
            return True
        if self.exit_code is None and self._job.exception() is None:
            self.exit_code = self._job.result()
        elif self.exit_code is None and self._log is not None:
            with open_to_append(self._log) as log:
                log.write(f"error: the cluster ended the job: {self._job.state}\n".encode())
            self._log = None
        return False

    def stop(self) -> None:
        """Cancel it; Slurm sends SIGTERM, then waits."""
        self._job.cancel(check=False)

    def kill(self) -> None:
        """Cancel the job."""
        self._job.cancel(check=False)


def check_cluster(kind: str) -> None:
    """Prove that jobs can be handed over from here.

    Raises:
        ConfigError: submitit is not installed.
        RunError: there is no Slurm here.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ConfigError(
            "sweep.launcher hands over to submitit, which is not installed",
            "the extra `slurm` of this project",
            "install it: .venv/bin/pip install -c constraints.txt submitit",
        ) from error
    if kind == "slurm" and submitit.SlurmExecutor.affinity() <= 0:
        raise RunError(
            "sweep.launcher=slurm, and there is no Slurm here (no srun)",
            "a machine that can submit jobs",
            "run the sweep on a login node of the cluster, or leave out sweep.launcher",
        )


def _executor(kind: str, options: SlurmOptions, folder: Path) -> "submitit.AutoExecutor":
    """Submitit's executor with these options."""
    import submitit

    executor = submitit.AutoExecutor(
        folder=folder / "%j", cluster=kind, slurm_max_num_timeout=options.max_num_timeout
    )
    executor.update_parameters(**_parameters(options))
    return executor


def _parameters(options: SlurmOptions) -> dict[str, Any]:
    given = {key: value for key, value in asdict(options).items() if value not in (None, {})}
    given.pop("max_num_timeout")
    return {
        "name": "prelude-sweep",
        **{key if key in _SHARED else f"slurm_{key}": value for key, value in given.items()},
    }
