"""Heartbeats: which of the processes that torchrun or srun has started for one run are still there.

Each process counts in the key-value store of the run. A machine that loses its power or its network closes no
connection: without heartbeats, the others would wait for it until PyTorch ends a collective operation, half
an hour later. And a connection that is lost does not say which process has died.

The first process watches all others, and they watch only the first one, so that the traffic grows linearly.
"""

import atexit
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import RunError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

#: Seconds between two heartbeats.
BEAT_EVERY_S = 2.0

#: How long a process may be silent; long, since some calls into libraries stop all threads of a process.
SILENT_S = 120.0

#: The most seconds of silence that one round can add, so that a machine that was suspended does not count the
#: time as the silence of others.
MOST_PER_ROUND_S = 15.0

#: How long the end of the process waits for a thread that may hang.
STOPS_WITHIN_S = 5.0

#: Instead of a count, from a process that has left training.
DONE = "done"

#: The most numbers of processes in a message.
MOST_SHOWN = 8


class Heartbeats:
    """The heartbeats of this process, and how long those of others have been missing.

    Args:
        connect: opens a connection to the store of the run, for the thread that beats.
        address: where the store is, in words.
        rank: the rank of this process.
        n_ranks: the number of processes.
        host: the name of this machine.
    """

    def __init__(
        self, connect: Callable[[], "Store"], *, address: str, rank: int, n_ranks: int, host: str
    ) -> None:
        self._connect, self._address = connect, address
        self._rank, self._n_ranks, self._host = rank, n_ranks, host
        watched = range(1, n_ranks) if rank == 0 else range(1)
        self._last = dict.fromkeys(watched, "")
        self._silent_s = dict.fromkeys(watched, 0.0)
        self._store: Store | None = None
        self._count = 0
        #: What was read last, and how often something was read.
        self._heard: dict[int, str] = {}
        self._n_read = self._n_noted = 0
        self._store_silent_s = 0.0
        self._is_done = False
        self._stopped = threading.Event()
        self._when_silent: Callable[[RunError], None] | None = None

    def start(self) -> None:
        """Beat and watch until the process ends, in two threads: without a network, the first one hangs."""
        for target in (self._keep_beating, self._keep_watching):
            thread = threading.Thread(target=target, daemon=True, name="heartbeats")
            thread.start()
            # A daemon that returns from C++ while Python is finalized aborts the process.
            atexit.register(self._stop, thread)

    @contextmanager
    def watching(self, when_silent: Callable[[RunError], None]) -> Iterator[None]:
        """Call `when_silent` in the thread if a watched process is silent too long within the block.

        After the block, the others do not wait for a heartbeat of this process any more.
        """
        self._silent_s = dict.fromkeys(self._silent_s, 0.0)  # preparing the data may have stopped all threads
        self._when_silent = when_silent
        try:
            yield
        finally:
            self._when_silent = None
        self._is_done = True

    def silent(self, at_least_s: float = 2 * BEAT_EVERY_S) -> str | None:
        """Name the watched processes that became silent first, at least so long ago; None if there are none.

        Others often end soon after the first one, since they lose the connection to it.
        """
        longest_s = max(self._silent_s.values())
        if longest_s < at_least_s:
            return None
        since = longest_s - 2 * BEAT_EVERY_S
        names = self._names([rank for rank, silent_s in self._silent_s.items() if silent_s >= since])
        if self._store_silent_s < at_least_s:
            return names
        return f"{names}, through the store of the run at {self._address}"

    def beat(self) -> None:
        """Tell the others that this process is there, and read whether they are."""
        self._count += 1
        try:
            self._store = self._store or self._connect()
            self._store.set(_key(self._rank), f"{self._host} {DONE if self._is_done else self._count}")
            self._heard = self._hear(self._store)
            self._n_read += 1
        except (RuntimeError, RunError):  # those of torch are RuntimeErrors
            self._store = None

    def watch(self, passed_s: float) -> None:
        """Note who has been heard since the last time, `passed_s` seconds ago."""
        self._store_silent_s = self._store_silent_s + passed_s if self._n_read == self._n_noted else 0.0
        self._n_noted = self._n_read
        for rank, last in self._last.items():
            now = self._heard.get(rank, last)
            if now != last:
                self._last[rank], self._silent_s[rank] = now, 0.0
            elif not now.endswith(DONE):
                self._silent_s[rank] += passed_s
        if self._when_silent is not None and (names := self.silent(SILENT_S)) is not None:
            self._when_silent(silent_too_long(names))

    def _keep_beating(self) -> None:
        self.beat()
        while not self._stopped.wait(BEAT_EVERY_S):
            self.beat()
        if self._is_done:
            self.beat()

    def _keep_watching(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(BEAT_EVERY_S):
            now = time.monotonic()
            self.watch(min(now - last, MOST_PER_ROUND_S))
            last = now

    def _stop(self, thread: threading.Thread) -> None:
        self._stopped.set()
        thread.join(STOPS_WITHIN_S)

    def _hear(self, store: "Store") -> dict[int, str]:
        """Return the last heartbeat of each watched process that has begun."""
        begun = [rank for rank, last in self._last.items() if last or store.check([_key(rank)])]
        values = store.multi_get([_key(rank) for rank in begun]) if begun else []
        return {rank: value.decode() for rank, value in zip(begun, values, strict=True)}

    def _names(self, ranks: Sequence[int]) -> str:
        """Name processes: `process 1 of 2 (on node7)`."""
        shown = ", ".join(map(str, ranks[:MOST_SHOWN]))
        more = f" and {len(ranks) - MOST_SHOWN} more" if len(ranks) > MOST_SHOWN else ""
        hosts = dict.fromkeys(self._last[rank].partition(" ")[0] for rank in ranks)
        where = ", ".join([host for host in hosts if host][:MOST_SHOWN])
        number = "process" if len(ranks) == 1 else "processes"
        return f"{number} {shown}{more} of {self._n_ranks}{f' (on {where})' if where else ''}"


def silent_too_long(names: str) -> RunError:
    """Return the error for processes from which nothing was heard."""
    return RunError(
        f"for {SILENT_S:.0f} s, nothing was heard from {names}",
        "a machine that is on and reachable",
        "check it and the network, then run the same command with resume=true to resume from the last "
        "checkpoint",
    )


def _key(rank: int) -> str:
    return f"beat {rank}"
