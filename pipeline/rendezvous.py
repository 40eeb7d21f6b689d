"""Rendezvous of the processes that torchrun or srun has started for one run, before the run's folder exists.

Each other process tells the first one what it is about to train, and with which code. The first process
compares these facts with its own, creates the run's folder and announces it. They communicate through the
key-value store of torch.distributed, served by torchrun's agent or, under srun, by the first process;
training uses it too.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import processes
from pipeline.errors import RunError, UserError
from pipeline.heartbeats import Heartbeats
from pipeline.processes import LET_REPORT_S
from pipeline.words import shorten

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

#: How long the first process waits for the others, and they for it; the first may have to wait for all of
#: them.
FIRST_WAITS_S, OTHERS_WAIT_S = 300.0, 600.0

#: How long one attempt to connect may take.
CONNECT_S = 5.0

#: Interval between queries of the store; a blocking wait could not be interrupted by a signal.
POLL_EVERY_S = 0.1

#: The most differences that are shown, and the most characters of each value.
MOST_SHOWN, MAX_CHARS = 5, 60


class RendezvousError(RunError):
    """The store through which the processes communicate cannot be reached."""


class Rendezvous:
    """Agreement of `n_ranks` processes on one run.

    Args:
        store: the key-value store through which they communicate.
        rank: the rank of this process.
        n_ranks: the number of processes.
        host: the name of this machine.
    """

    def __init__(self, store: "Store", *, rank: int, n_ranks: int, host: str) -> None:
        self._store, self._rank, self._n_ranks, self._host = store, rank, n_ranks, host
        self.is_over = False
        #: The key under which this process is expected to report, and the answer of the first one to it.
        self._reports, self._answer = f"rank {rank}", "run"

    def join(self, facts: Mapping[str, Any]) -> Path | None:
        """Wait for the other processes; return the run's folder, or None in the first one, which creates it.

        Raises:
            RunError: if a process does not join, has different facts, or has failed.
            SystemExit: if the first process has failed, after one process of each machine has printed why.
        """
        if self._rank == 0:
            self._compare(facts)
            return None
        self._put(self._reports, {"facts": facts, "host": self._host})
        folder = Path(self._answer_of_first()["folder"])
        self._reports, self._answer = f"seen {self._rank}", "go"
        self._see(folder)
        self._put(self._reports, {"host": self._host})
        self._answer_of_first()
        self.is_over = True
        return folder

    def share(self, folder: Path) -> None:
        """Announce the run's folder to the other processes, which wait in `join`, until all have seen it.

        Raises:
            RunError: if it is not on the machine of one of them.
        """
        self._put("run", {"folder": str(folder.absolute())})
        for number in range(1, self._n_ranks):
            self._report_of(number, "seen", 2 * LET_REPORT_S)
        self.is_over = True
        self._put("go", {})

    def fail(self, error: UserError) -> bool:
        """Tell the first process, or all others, why this one fails; return whether this one reports it.

        Process 0 reports an error of another one; so does that one, if it is on another machine, where the
        output can be in another file. A process that fails after it has joined first gives the launcher time
        to end it, so that the user reads the error of process 0 or of the process that failed first.
        """
        told = {"error": error.sentence, "remedy": error.remedy, "host": self._host}
        if self._rank == 0:
            self._put("run", told)
            self._put("go", told)
            return True
        if self.is_over:
            time.sleep(LET_REPORT_S)
            return True
        self._put(self._reports, told)
        of_first = self._get(self._answer, LET_REPORT_S)
        return of_first is None or of_first.get("host") != self._host

    def _compare(self, facts: Mapping[str, Any]) -> None:
        for number in range(1, self._n_ranks):
            told = self._report_of(number, "rank", FIRST_WAITS_S)
            if differences := differing(facts, told["facts"]):
                raise RunError(
                    f"process {number} of {self._n_ranks} (on {told['host']}) differs from process 0, whose "
                    "values come first: " + "; ".join(differences),
                    "the same run in all processes",
                    "start the same command, with the same code and files, on all machines",
                )

    def _report_of(self, number: int, what: str, limit_s: float) -> dict[str, Any]:
        """Return what another process reports.

        Raises:
            RunError: if it does not report in time, or has failed.
        """
        told = self._get(f"{what} {number}", limit_s)
        process = f"process {number} of {self._n_ranks}"
        if told is None:
            raise RunError(
                f"{process} has not joined within {limit_s:.0f} s",
                "all processes of the run",
                "check that it was started, and that its machine reaches "
                f"{os.environ.get('MASTER_ADDR')}, port {os.environ.get('MASTER_PORT')}",
            )
        if "error" in told:
            raise RunError(f"{process} (on {told['host']}) has failed: {told['error']}", "", told["remedy"])
        return told

    def _answer_of_first(self) -> dict[str, Any]:
        """Return the answer of the first process.

        Raises:
            RunError: if it does not answer in time.
            SystemExit: if it has failed.
        """
        told = self._get(self._answer, OTHERS_WAIT_S)
        if told is None:
            raise RunError(
                f"process 0 has not created the run within {OTHERS_WAIT_S:.0f} s",
                "a first process that creates it",
                "check the output of process 0, which shows what it is waiting for",
            )
        if "error" in told:
            self.is_over = True
            if told["host"] != self._host and processes.is_first_here():
                what = f"process 0 (on {told['host']}) has failed: {told['error']}"
                print(f"error: {RunError(what, '', told['remedy'])}", file=sys.stderr)
            raise SystemExit(2)
        return told

    def _see(self, folder: Path) -> None:
        """Wait until the folder is visible on this machine: network file systems take a moment.

        Raises:
            RunError: if it does not become visible.
        """
        until = time.monotonic() + LET_REPORT_S
        while not (folder / "run.json").exists():
            if time.monotonic() > until:
                raise RunError(
                    f"{folder}, which process 0 has created, is not on this machine",
                    "a folder that all machines of the run share",
                    "choose one on a shared file system with runs_dir=PATH",
                )
            time.sleep(POLL_EVERY_S)

    def _put(self, key: str, value: Mapping[str, Any]) -> None:
        with _reaching_store():
            self._store.set(key, json.dumps(value))

    def _get(self, key: str, limit_s: float) -> dict[str, Any] | None:
        """Return the value of `key`, or None if it is not set in time."""
        until = time.monotonic() + limit_s
        with _reaching_store():
            while not self._store.check([key]):
                if time.monotonic() > until:
                    return None
                time.sleep(POLL_EVERY_S)
            told: dict[str, Any] = json.loads(self._store.get(key))
        return told


@contextmanager
def _reaching_store() -> Iterator[None]:
    """Report that the store has been lost within the block.

    Raises:
        RendezvousError: if it has.
    """
    from torch.distributed import DistError

    try:
        yield
    except DistError as error:
        raise _unreachable(*_address(), str(error).splitlines()[0]) from error


@cache
def rendezvous() -> Rendezvous:
    """Return the rendezvous of this run's processes, which torchrun or srun has started.

    Raises:
        RendezvousError: if the store cannot be reached.
    """
    serves = "SLURM_STEP_NUM_TASKS" in os.environ and processes.is_first()
    store = _connect(FIRST_WAITS_S, serves=serves)
    return Rendezvous(
        store, rank=processes.rank(), n_ranks=processes.count_launched(), host=socket.gethostname()
    )


@cache
def heartbeats() -> Heartbeats:
    """Return the heartbeats of this run's processes, which torchrun or srun has started."""
    return Heartbeats(
        lambda: _connect(CONNECT_S),
        address="{}, port {}".format(*_address()),
        rank=processes.rank(),
        n_ranks=processes.count_launched(),
        host=socket.gethostname(),
    )


def _address() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def _connect(limit_s: float, *, serves: bool = False) -> "Store":
    """Return a connection to the store, which this process may have to serve.

    Args:
        limit_s: how long to wait for the store, now and in later calls.
        serves: whether this process serves the store.

    Raises:
        RendezvousError: if the store cannot be reached.
    """
    from torch.distributed import DistError, PrefixStore, TCPStore  # type: ignore[attr-defined]

    host, port = _address()
    if not serves:
        wait_for_store(host, port, limit_s)
    try:
        store = TCPStore(
            host,
            port,
            is_master=serves,
            wait_for_workers=False,
            timeout=timedelta(seconds=limit_s),
        )
    except (DistError, RuntimeError) as error:
        raise _unreachable(host, port, str(error).splitlines()[0]) from error
    return PrefixStore(f"prelude {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def wait_for_store(host: str, port: int, limit_s: float) -> None:
    """Wait until a server accepts connections at this address.

    `TCPStore` also waits, but twice as long as its timeout, without reacting to signals, and writes the stack
    of each failed attempt to standard error.

    Raises:
        RendezvousError: if none does in time.
    """
    until = time.monotonic() + limit_s
    while True:
        try:
            socket.create_connection((host, port), timeout=CONNECT_S).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                why = f"{error.strerror or error} for {limit_s:.0f} s"
                raise _unreachable(host, port, why) from error
        time.sleep(POLL_EVERY_S)


def _unreachable(host: str, port: int, why: str) -> RendezvousError:
    return RendezvousError(
        f"the store of the run at {host}, port {port}, cannot be reached: {why}",
        "a machine that all processes of the run reach",
        "check that process 0 was started, or set MASTER_ADDR and MASTER_PORT to its machine and a free port",
    )


def differing(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Describe where the facts of another process differ from those of the first."""
    keys = [key for key in {**first, **other} if first.get(key) != other.get(key)]
    shown = [f"{key} is {_brief(first, key)}, not {_brief(other, key)}" for key in keys[:MOST_SHOWN]]
    return shown + ([f"and {len(keys) - MOST_SHOWN} more"] if len(keys) > MOST_SHOWN else [])


def _brief(facts: Mapping[str, Any], key: str) -> str:
    return shorten(str(facts[key]), MAX_CHARS) if key in facts else "nothing"
