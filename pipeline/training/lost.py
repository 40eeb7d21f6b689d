"""The error for a run in which another process has died, which breaks the connection between them."""

import subprocess
import time
from collections.abc import Sequence

import lightning as L
import torch

from pipeline import processes
from pipeline.errors import RunError

#: Seconds until a launcher has noticed which process has died and ends the others.
LAUNCHER_NOTICES_S = 5.0


def is_lost_connection(error: RuntimeError) -> bool:
    """Return whether the connection to another process was lost; gloo has no exception class for that."""
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def lost_process(trainer: L.Trainer) -> RunError:
    """Return an error that names the dead process, if known.

    Under torchrun or srun, this process first waits to be ended by the launcher, which reports the process
    that ended first as the cause.
    """
    if processes.count_launched() > 1:
        time.sleep(LAUNCHER_NOTICES_S)
    ended = _ended(trainer)
    return RunError(
        "another process of the run has ended" if ended is None else ended,
        "all processes of the run",
        "run the same command with RESUME=1 to resume from the last checkpoint",
    )


def _ended(trainer: L.Trainer) -> str | None:
    """Describe a child process that has ended, or return None."""
    started: Sequence[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", ())
    until = time.monotonic() + 1
    while started and time.monotonic() < until:
        for number, process in enumerate(started, 1):
            if process.poll():
                return (
                    f"process {number} of {trainer.world_size} has ended with exit code {process.returncode}"
                )
        time.sleep(0.05)
    return None
