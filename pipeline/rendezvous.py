"""Where the processes that torchrun or srun has started for one run agree on it, before there is a run.

Each further process tells the first one what it is to train, and with which code; the first compares, makes
the run's folder, and tells where it is. They talk through the key-value store of torch.distributed that
torchrun's agent serves (under srun the first process), which the training then uses too.
"""

import json
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import processes
from pipeline.errors import RunError, UserError
from pipeline.words import shorten

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

#: How long the first process waits for the others, and these for the first, which may have to wait itself.
FIRST_WAITS_S, OTHERS_WAIT_S = 300.0, 600.0

#: How long a process whose fault may also be that of the first one lets that one speak.
LET_SPEAK_S = 15.0

#: How often the store is asked. A blocking wait would not answer to a signal.
ASK_EVERY_S = 0.1

#: So many differences are shown, and so much of each value.
MOST_SHOWN, MAX_CHARS = 5, 60


class RendezvousError(RunError):
    """The store through which the processes talk cannot be reached."""


class Rendezvous:
    """The meeting of `n_ranks` processes of one run.

    Args:
        store: what they talk through.
        rank: the number of this process.
        n_ranks: how many there are.
    """

    def __init__(self, store: "Store", *, rank: int, n_ranks: int) -> None:
        self._store, self._rank, self._n_ranks = store, rank, n_ranks
        self.is_over = False

    def join(self, facts: Mapping[str, Any]) -> Path | None:
        """The folder of the run, in a further process; None in the first, once all have come with its facts.

        Raises:
            RunError: a process does not come, has other facts, or has failed.
            SystemExit: the first process has failed, and said why.
        """
        if self._rank == 0:
            self._compare(facts)
            return None
        self._put(f"rank {self._rank}", {"facts": facts})
        told = self._get("run", OTHERS_WAIT_S)
        if told is None:
            raise RunError(
                f"process 0 has not made the run within {OTHERS_WAIT_S:.0f} s",
                "a first process that does",
                "see what it waits for: it prints where it is",
            )
        self.is_over = True
        if "folder" not in told:
            raise SystemExit(2)
        return self._seen(Path(told["folder"]))

    def share(self, folder: Path) -> None:
        """Tell the others, which are waiting in `join`, where the run is."""
        self.is_over = True
        self._put("run", {"folder": str(folder.absolute())})

    def fail(self, error: UserError) -> bool:
        """Tell the first process, or all the others, why this one fails; gives whether it has to print that.

        A process that fails after it has joined waits a little for the launcher to end it: what broke first,
        or process 0, is what a person is to read.
        """
        told = {"error": error.sentence, "remedy": error.remedy}
        if self._rank == 0:
            self._put("run", told)
            return True
        if self.is_over:
            time.sleep(LET_SPEAK_S)
            return True
        self._put(f"rank {self._rank}", told)
        return self._get("run", LET_SPEAK_S) is None

    def _compare(self, facts: Mapping[str, Any]) -> None:
        for number in range(1, self._n_ranks):
            told = self._get(f"rank {number}", FIRST_WAITS_S)
            if told is None:
                raise RunError(
                    f"process {number} of {self._n_ranks} has not come within {FIRST_WAITS_S:.0f} s",
                    "all processes of the run",
                    "see that it was started, and that its machine reaches "
                    f"{os.environ.get('MASTER_ADDR')}, port {os.environ.get('MASTER_PORT')}",
                )
            if "error" in told:
                raise RunError(
                    f"process {number} of {self._n_ranks} has failed: {told['error']}", "", told["remedy"]
                )
            if differences := differing(facts, told["facts"]):
                raise RunError(
                    f"process {number} of {self._n_ranks} is not as process 0, whose values come first: "
                    + "; ".join(differences),
                    "one run",
                    "start the same command, with the same code and files, on all machines",
                )

    def _seen(self, folder: Path) -> Path:
        """The folder, as soon as this machine sees it: network file systems take a moment."""
        until = time.monotonic() + LET_SPEAK_S
        while not (folder / "run.json").exists():
            if time.monotonic() > until:
                raise RunError(
                    f"{folder}, which process 0 has made, is not on this machine",
                    "a folder that all machines of the run share",
                    "choose one on a shared file system with runs_dir=PATH",
                )
            time.sleep(ASK_EVERY_S)
        return folder

    def _put(self, key: str, value: Mapping[str, Any]) -> None:
        self._store.set(key, json.dumps(value))

    def _get(self, key: str, limit_s: float) -> dict[str, Any] | None:
        """What is told under `key`; None: nothing in time."""
        until = time.monotonic() + limit_s
        while not self._store.check([key]):
            if time.monotonic() > until:
                return None
            time.sleep(ASK_EVERY_S)
        told: dict[str, Any] = json.loads(self._store.get(key))
        return told


@cache
def rendezvous() -> Rendezvous:
    """The meeting of the processes of this run, which torchrun or srun has started.

    Raises:
        RendezvousError: there is no such store.
    """
    from torch.distributed import DistError, PrefixStore, TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = "SLURM_STEP_NUM_TASKS" in os.environ and processes.is_first()
    try:
        store = TCPStore(
            host,
            port,
            is_master=serves,
            wait_for_workers=False,
            timeout=timedelta(seconds=FIRST_WAITS_S),
        )
    except (DistError, RuntimeError) as error:
        raise RendezvousError(
            f"the store of the run at {host}, port {port}, cannot be reached: {str(error).splitlines()[0]}",
            "a machine that all processes of the run reach",
            "set MASTER_ADDR and MASTER_PORT to such a machine and a free port",
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Rendezvous(
        PrefixStore(f"prelude {attempt}", store), rank=processes.rank(), n_ranks=processes.count_launched()
    )


def differing(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where the facts of a further process are not those of the first, for people."""
    keys = [key for key in {**first, **other} if first.get(key) != other.get(key)]
    shown = [f"{key} is {_brief(first, key)}, not {_brief(other, key)}" for key in keys[:MOST_SHOWN]]
    return shown + ([f"and {len(keys) - MOST_SHOWN} more"] if len(keys) > MOST_SHOWN else [])


def _brief(facts: Mapping[str, Any], key: str) -> str:
    return shorten(str(facts[key]), MAX_CHARS) if key in facts else "nothing"
