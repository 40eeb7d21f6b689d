"""Run trials as jobs of a cluster, with submitit, the library used by Hydra's submitit launcher."""

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

#: Options that submitit has for every cluster; all others are specific to Slurm.
_SHARED = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")
_POLL_EVERY_S = 0.2


class TrialCommand:
    """The callable of a job: runs the command of a trial. At its time limit, a job saves and is requeued."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the command to completion, and return its exit code."""
        folder = self._work.folder
        if folder.exists() and not can_resume(folder):  # the job reached its time limit before a checkpoint
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
                time.sleep(_POLL_EVERY_S)
        except BaseException:
            self._process.terminate()
            raise
        return code

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Save the trial and requeue the job; submitit calls this shortly before the time limit."""
        import submitit

        if self._process is not None:
            process = psutil.Process(self._process.pid)
            process.terminate()
            process.wait()
        return submitit.helpers.DelayedSubmission(TrialCommand(self._work))


def _environ() -> dict[str, str]:
    """Return the environment of a trial, with as many threads as the job has cores.

    Slurm's variables are left out: with them, Lightning would expect srun to start the processes of the
    trial.
    """
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    if (cores := os.environ.get("SLURM_CPUS_ON_NODE")) is not None:
        environ.setdefault("OMP_NUM_THREADS", cores)
    return environ


def _ignore_warning() -> None:
    """Ignore Slurm's warning signal, which submitit handles by making the trial save."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


class Cluster:
    """Submits trials to Slurm or, as `submitit_local`, to processes of submitit on this machine."""

    def __init__(self, kind: str, options: SlurmOptions, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder, self._environ = folder.absolute(), environ
        self._kind = kind.removeprefix("submitit_")
        self._executor = _executor(self._kind, options, self._folder)

    def launch(self, work: Work, *, slot: int) -> Job:
        """Submit a trial; the cluster allocates its resources, so the slot is not used.

        Raises:
            RunError: if the cluster rejects the job.
        """
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        del slot
        try:
            with submitit.helpers.environment_variables(PYTHONPATH=import_path(self._environ)):
                return ClusterJob(self._executor.submit(TrialCommand(work)), work.log)
        except (FailedSubmissionError, FailedJobError, subprocess.CalledProcessError) as error:
            raise RunError(
                f"the cluster rejected the job ({str(error).strip().splitlines()[-1]})",
                "options that this cluster supports",
                "correct sweep.slurm.*",
            ) from error

    def find(self, handle: str) -> Job | None:
        """Return the job with this id; jobs of `submitit_local` cannot be found again."""
        import submitit

        if self._kind != "slurm":
            return None
        return ClusterJob(submitit.SlurmJob(self._folder, handle), None)


class ClusterJob:
    """A job submitted by submitit."""

    def __init__(self, job: "submitit.Job[int]", log: Path | None) -> None:
        self._job, self._log = job, log
        self.handle = str(job.job_id)
        self.exit_code: int | None = None

    def is_running(self) -> bool:
        """Return whether the job has not ended; if it has, read its exit code or log the reason."""
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
        """Cancel the job; Slurm sends SIGTERM, then waits."""
        self._job.cancel(check=False)

    def kill(self) -> None:
        """Cancel the job."""
        self._job.cancel(check=False)


def check_cluster(kind: str) -> None:
    """Check that jobs can be submitted from this machine.

    Raises:
        ConfigError: if submitit is not installed.
        RunError: if there is no Slurm here.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ConfigError(
            "sweep.launcher needs submitit, which is not installed",
            "the extra `slurm` of this project",
            "install it: .venv/bin/pip install -c constraints.txt submitit",
        ) from error
    if kind == "slurm" and submitit.SlurmExecutor.affinity() <= 0:
        raise RunError(
            "sweep.launcher=slurm, but Slurm is not installed here (there is no srun)",
            "a machine that can submit jobs",
            "run the sweep on a login node of the cluster, or leave out sweep.launcher",
        )


def _executor(kind: str, options: SlurmOptions, folder: Path) -> "submitit.AutoExecutor":
    """Create submitit's executor with these options."""
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
