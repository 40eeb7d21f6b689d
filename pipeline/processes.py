"""The processes of a run on several devices: the first creates the run, and the others join it.

Either the first process starts the others (`trainer.devices=N`, through Lightning), or torchrun or srun
starts all of them and gives each its rank in the environment.
"""

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RunError

#: Environment variable with the folder of the run, for the processes that Lightning starts with the same
#: command.
SHARED_RUN = "PRELUDE_RUN"

#: The process id of the first one.
FIRST_PROCESS = "PRELUDE_FIRST_PROCESS"

#: How long a failing process waits for the first one to report an error that they may share.
LET_REPORT_S = 15.0

#: Seconds between checks that the first process is still alive.
LOOK_EVERY_S = 2.0


def adopt_slurm(environ: MutableMapping[str, str]) -> None:
    """Set torchrun's variables in the tasks of an `srun`, so that all other code knows only these.

    The first task serves the key-value store that torchrun's agent would otherwise serve.
    """
    n_ranks = int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if n_ranks == 1 or "TORCHELASTIC_RUN_ID" in environ:
        return
    n_nodes = int(environ.get("SLURM_STEP_NUM_NODES", "1"))
    if n_ranks % n_nodes:
        raise RunError(
            f"srun has started {n_ranks} tasks on {n_nodes} nodes",
            "the same number of tasks on each node",
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
    """Return the first name of a node list in Slurm's format: `gpu03` for `gpu[03-05,07],big1`."""
    return re.sub(r"^([^,\[]*)(?:\[([^\],-]*)[^\]]*\])?([^,]*).*$", r"\1\2\3", nodes)


def count_launched(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many processes torchrun or srun has started for this run, or 1 without them."""
    return int(environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in environ else 1


def count_launched_here(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many processes torchrun or srun has started on this machine, or 1 without them."""
    return int(environ["LOCAL_WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in environ else 1


def rank(environ: Mapping[str, str] = os.environ) -> int:
    """Return the rank of this process in its run."""
    if SHARED_RUN in environ:
        return int(environ.get("LOCAL_RANK", "0"))
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return next((int(environ[name]) for name in names if environ.get(name, "").isdigit()), 0)


def is_first() -> bool:
    """Return whether this is the first process, which alone prints, tracks and writes bundles."""
    return rank() == 0


def is_first_here() -> bool:
    """Return whether this is the first process of its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def word_to_resume() -> str:
    """Return what to add to a command to resume its run: launchers are not called through make."""
    return "resume=true" if count_launched() > 1 else "RESUME=1"


def quieten_torch(environ: MutableMapping[str, str]) -> None:
    """Keep torch, not yet imported, from printing C++ stacks for lost connections, which errors report."""
    if count_launched(environ) > 1:
        environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


@contextmanager
def sharing_run(folder: Path) -> Iterator[None]:
    """Tell processes that are started within the block which run they belong to."""
    os.environ |= {SHARED_RUN: str(folder), FIRST_PROCESS: str(os.getpid())}
    try:
        yield
    finally:
        for name in (SHARED_RUN, FIRST_PROCESS):
            os.environ.pop(name, None)


def shared_run() -> Path | None:
    """Return the folder of the run to join if Prelude has started this process, or None in the first process.

    Raises:
        RunError: if the environment contains a rank above 0, but neither Prelude, torchrun nor srun set it.
    """
    if not is_first() and SHARED_RUN in os.environ:
        # Not `getppid`, which is that of another process if the first one has ended already.
        first = int(os.environ[FIRST_PROCESS])
        threading.Thread(target=_end_with, args=(first,), daemon=True).start()
        return Path(os.environ[SHARED_RUN])
    if count_launched() == 1:
        _refuse_stray_rank()
    return None


def _end_with(parent: int) -> None:
    """End this process when the first one is gone: on a GPU it would wait for it forever."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os._exit(1)


def let_first_report() -> None:
    """Give the first process time to report an error that they may share, if it has started this one.

    This process ends with the first one, and otherwise reports the error itself.
    """
    if SHARED_RUN in os.environ and not is_first():
        time.sleep(LET_REPORT_S)


def _refuse_stray_rank() -> None:
    """Reject a rank above 0 that was left in the environment by something else.

    Raises:
        RunError: if the environment has such a rank.
    """
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "0") != "0":
            raise RunError(
                f"{name}={os.environ[name]} in the environment marks this process as one of several",
                "a single process, or all processes of a torchrun or an srun",
                f"unset {name} (env -u {name})",
            )


def refuse_several(stage: str) -> None:
    """Reject several processes for a stage that runs in one.

    Raises:
        RunError: if torchrun or srun has started several.
    """
    if count_launched() > 1:
        raise RunError(
            f"{count_launched()} processes were started for {stage}",
            "several processes for pretrain and finetune only",
            "run it without torchrun, or with a single srun task",
        )
