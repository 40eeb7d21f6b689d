"""Waits for other processes, and costs of calls: neither depends on how fast the machine is."""

import subprocess
import time
from collections.abc import Callable
from typing import Any

#: Seconds that a test waits for another process before it fails: many times what a slow machine takes.
LIMIT_S = 600.0


def wait_until(
    condition: Callable[[], Any],
    what: str,
    *,
    process: "subprocess.Popen[Any] | None" = None,
    pause_s: float = 0.05,
) -> None:
    """Return when `condition` holds; fails, saying `what` was waited for, when `process` has ended before."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended with {process.returncode} before this: {what}")
        assert time.monotonic() < deadline, f"waited {LIMIT_S:.0f} s in vain for this: {what}"
        time.sleep(pause_s)


def processor_time(call: Callable[[], Any]) -> float:
    """Seconds of processor time of a call, the least of three: for ratios within one process alone."""
    took = []
    for _ in range(3):
        begun = time.process_time()
        call()
        took.append(time.process_time() - begun)
    return min(took)
