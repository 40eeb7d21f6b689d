"""One run on several devices is several processes; the first makes the run, the others join it.

This program starts the further processes itself (`trainer.devices=N`, through Lightning), or all are started
by torchrun or srun, which number them in the environment.
"""

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RunError

#: Tells the further processes, which Lightning starts with the same command, which run is theirs.
SHARED_RUN = "PRELUDE_RUN"

#: How often a further process looks whether the first one is still there.
LOOK_EVERY_S = 2.0


def adopt_slurm(environ: MutableMapping[str, str]) -> None:
    """Number the processes of an `srun` with several tasks as torchrun does, so that the rest knows one form.

    The first task serves the store that torchrun's agent would.
    """
    n_ranks = int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if n_ranks == 1 or "TORCHELASTIC_RUN_ID" in environ:
        return
    n_nodes = int(environ.get("SLURM_STEP_NUM_NODES", "1"))
    if n_ranks % n_nodes:
        raise RunError(
            f"srun has started {n_ranks} tasks on {n_nodes} nodes",
            "as many tasks on each node",
            "give --nodes and --ntasks-per-node",
        )
    job = environ["SLURM_JOB_ID"]
    nodes = environ.get("SLURM_STEP_NODELIST", "localhost")
    numbered = {
        "TORCHELASTIC_RUN_ID": f"slurm-{job}",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "MASTER_ADDR": environ.get("MASTER_ADDR", first_node(nodes)),
        "MASTER_PORT": environ.get("MASTER_PORT", str(15000 + int(job) % 10000)),
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": str(n_ranks),
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(n_ranks // n_nodes),
        "GROUP_RANK": environ.get("SLURM_NODEID", "0"),
    }
    environ.update(numbered)


def first_node(nodes: str) -> str:
    """The first name of a list in Slurm's form: `gpu[03-05,07],big1` is `gpu03`."""
    return re.sub(r"^([^,\[]*)(?:\[([^\],-]*)[^\]]*\])?([^,]*).*$", r"\1\2\3", nodes)


def count_launched(environ: Mapping[str, str] = os.environ) -> int:
    """How many processes torchrun or srun has started for this run; 1: this program starts further ones."""
    return int(environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in environ else 1


def count_launched_here(environ: Mapping[str, str] = os.environ) -> int:
    """How many of these run on this machine."""
    return int(environ["LOCAL_WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in environ else 1


def rank(environ: Mapping[str, str] = os.environ) -> int:
    """The number of this process in its run."""
    if SHARED_RUN in environ:
        return int(environ.get("LOCAL_RANK", "0"))
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return next((int(environ[name]) for name in names if environ.get(name, "").isdigit()), 0)


def is_first() -> bool:
    """Whether this process speaks, tracks and writes bundles for all."""
    return rank() == 0


@contextmanager
def sharing_run(folder: Path) -> Iterator[None]:
    """Tell processes that are started meanwhile which run they belong to."""
    os.environ[SHARED_RUN] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(SHARED_RUN, None)


def shared_run() -> Path | None:
    """The run to join, where this program has started the process; None in the first process.

    Raises:
        RunError: the environment says that this is a further process, and nothing has started it as such.
    """
    if not is_first() and SHARED_RUN in os.environ:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        return Path(os.environ[SHARED_RUN])
    if count_launched() == 1:
        _refuse_stray_rank()
    return None


def _end_with(parent: int) -> None:
    """End this process when the first one is gone: on a GPU it would wait for it."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os._exit(1)


def _refuse_stray_rank() -> None:
    """Refuse a rank that says that this process is not the first, where nothing has started it as such.

    Raises:
        RunError: the environment has such a rank.
    """
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "0") != "0":
            raise RunError(
                f"{name}={os.environ[name]} in the environment says that this is a further process of a run",
                "a single process, or all processes of a torchrun or an srun",
                f"leave out {name} (env -u {name})",
            )


def refuse_several(stage: str) -> None:
    """Refuse further processes for a stage that has no use for them.

    Raises:
        RunError: torchrun or srun has started several.
    """
    if count_launched() > 1:
        raise RunError(
            f"{count_launched()} processes were started for {stage}",
            "several processes for pretrain and finetune only",
            "run it without torchrun, and with one task of srun",
        )
