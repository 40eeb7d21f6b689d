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
        _refuse_stray_rank()
        return None
    if SHARED_RUN not in os.environ:
        raise RunError(
            f"process {os.environ['LOCAL_RANK']} was started by another launcher than this program",
            "one command that starts its own processes",
            "run it without torchrun, with trainer.devices=N",
        )
    return Path(os.environ[SHARED_RUN])


def _refuse_stray_rank() -> None:
    """Refuse a rank that says that this process is not the first, where nothing has started it as such.

    Every task of `srun` would make a run of its own, and only the first of them would be tracked.

    Raises:
        RunError: the environment has such a rank.
    """
    for name in ("RANK", "SLURM_PROCID"):
        if os.environ.get(name, "0") != "0":
            raise RunError(
                f"{name}={os.environ[name]} in the environment says that this is a further process of a run",
                "a single process, which starts the others itself",
                f"leave out {name} (env -u {name}), or run one task with trainer.devices=N",
            )
