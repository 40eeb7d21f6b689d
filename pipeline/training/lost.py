"""Ends a run in which another process has died or cannot be reached."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import lightning as L
import torch

from pipeline import processes
from pipeline.errors import RunError
from pipeline.rendezvous import heartbeats
from pipeline.stdio import tell_at_once

#: Seconds until a launcher has noticed which process has died and ends the others, or heartbeats are missing.
LAUNCHER_NOTICES_S = 8.0


def end_if_others_are_silent(record_failure: Callable[[], None]) -> AbstractContextManager[None]:
    """End this process if another one, started by torchrun or srun, is not heard within the block.

    Args:
        record_failure: called in the first process before it ends.
    """
    if processes.count_launched() == 1:
        return nullcontext()

    def end(error: RunError) -> None:
        # Not an exception: the main thread waits in a collective operation, which nothing can interrupt.
        try:
            if processes.is_first():
                record_failure()
            if processes.is_first_here():
                tell_at_once(f"error: {error}\n")
        finally:
            os._exit(2)

    return heartbeats().watching(end)


def is_lost_connection(error: RuntimeError) -> bool:
    """Return whether the connection to another process was lost; gloo has no exception class for that."""
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def lost_process(trainer: L.Trainer, error: RuntimeError) -> RunError:
    """Return an error that names the dead process, if known.

    Under torchrun or srun, this process first waits: a launcher that has started the dead process too reports
    it as the cause, and ends this one. On another machine, its heartbeats are missing.
    """
    if processes.count_launched() == 1:
        ended = _ended(trainer)
    elif (address := loopback_address(str(error))) is not None:
        return RunError(
            f"the name of another machine resolves there to {address}, which is each machine itself",
            "names that resolve to addresses which all machines of the run reach",
            "correct /etc/hosts, or set GLOO_SOCKET_IFNAME to the network interface on each machine",
        )
    else:
        time.sleep(LAUNCHER_NOTICES_S)
        silent = heartbeats().silent()
        ended = None if silent is None else f"nothing is heard any more from {silent}"
    return RunError(
        "another process of the run has ended" if ended is None else ended,
        "all processes of the run",
        f"run the same command with {processes.word_to_resume()} to resume from the last checkpoint",
    )


def loopback_address(error: str) -> str | None:
    """Return the address at which gloo tried to reach another machine, if it is that of the machine itself.

    gloo tells the others the address to which the name of its machine resolves.
    """
    found = re.search(r"connectFullMesh failed.*remote=\[(127\.[\d.]+)\]", error, re.DOTALL)
    is_on_several = processes.count_launched() > processes.count_launched_here()
    return found[1] if found and is_on_several else None


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
