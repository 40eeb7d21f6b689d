"""What is told when another process of the run has died: the others meet a broken connection."""

import subprocess
import time
from collections.abc import Sequence

import lightning as L
import torch

from pipeline import processes
from pipeline.errors import RunError

#: A launcher takes a moment to see which process has died, and then ends the others.
LAUNCHER_SEES_S = 5.0


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether the error comes from the connection to another process: gloo has no class of its own for it."""
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def lost_process(trainer: L.Trainer) -> RunError:
    """The error that names the process, as far as this one knows it.

    A process of torchrun or srun waits to be ended: what ends first is what the launcher names as the cause.
    """
    if processes.count_launched() > 1:
        time.sleep(LAUNCHER_SEES_S)
    ended = _ended(trainer)
    return RunError(
        "another process of the run has ended, and so does this one" if ended is None else ended,
        "",
        "run the same command with RESUME=1 to go on from the last checkpoint",
    )


def _ended(trainer: L.Trainer) -> str | None:
    """Which process that this one has started is gone."""
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
