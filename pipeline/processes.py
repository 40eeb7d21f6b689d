"""One run on several devices is several processes; the first makes the run, the others join it."""

import os
from pathlib import Path

from pipeline.errors import RunError

#: Tells the further processes, which Lightning starts with the same command, which run is theirs.
SHARED_RUN = "PRELUDE_RUN"


def is_first() -> bool:
    """Whether this process speaks, tracks and writes bundles for all."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def share_run(folder: Path) -> None:
    """Tell processes that are started from now on which run they belong to."""
    os.environ[SHARED_RUN] = str(folder)


def shared_run() -> Path | None:
    """The run to join; None in the first process, which makes its own.

    Raises:
        RunError: another launcher started this process, so it was told of no run.
    """
    if is_first():
        return None
    if SHARED_RUN not in os.environ:
        raise RunError(
            f"process {os.environ['LOCAL_RANK']} was started by another launcher than this program",
            "one command that starts its own processes",
            "run it without torchrun, with trainer.devices=N",
        )
    return Path(os.environ[SHARED_RUN])
