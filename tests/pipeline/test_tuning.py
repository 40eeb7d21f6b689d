"""OpenMP itself says what it was told, and the system how many pages it had to give."""

import ctypes
import os
import resource
import subprocess
import sys

import pytest

COMMAND = "from pipeline.__main__ import main; main(['--help'])"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_wait_briefly_unless_the_user_says_otherwise(asked: dict[str, str], spins: str) -> None:
    ours = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    code = f"try:\n {COMMAND}\nexcept SystemExit:\n import torch"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environ, "OMP_DISPLAY_ENV": "VERBOSE", **asked},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    if "GOMP_" not in done.stderr:
        pytest.skip("torch has another OpenMP than GNU's")
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


STEPS = """
import resource
from pipeline.tuning import tune_process
tune_process()
import torch
def step():
    kept = [torch.ones(2**18) for _ in range(100)]  # of 1 MB each
    while kept:
        kept.pop()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


#: Pages of the memory that the four steps of STEPS use, if they get it from the system.
PAGES = 4 * 100 * 2**20 // resource.getpagesize()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than GNU's")
@pytest.mark.parametrize(
    ("asked", "faults"),
    [({}, (0, PAGES // 20)), ({"MALLOC_TRIM_THRESHOLD_": "1000000"}, (PAGES // 4, 2 * PAGES))],
)
def test_memory_freed_in_a_step_is_used_in_the_next_one_unless_the_user_says_otherwise(
    asked: dict[str, str], faults: tuple[int, int]
) -> None:
    assert faults[0] <= int(printed_by(STEPS, **asked)) <= faults[1]


def printed_by(code: str, **asked: str) -> str:
    """Run code without the settings of malloc in the environment of the tests, and return what it prints."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environ, **asked}, capture_output=True, text=True, check=True
    )
    return done.stdout


PREPARATION = """
from pipeline.tuning import return_freed_memory, tune_process
tune_process()
import numpy as np
import pyarrow
def kept_mb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
before = kept_mb()
made = [np.ones(2**17) for _ in range(200)]  # of 1 MB each
last = np.ones(2**17)
del made
print(kept_mb() - before)
return_freed_memory()
print(kept_mb() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than GNU's")
def test_what_the_preparation_of_data_has_freed_returns_to_the_system() -> None:
    kept, returned = map(float, printed_by(PREPARATION).split())
    assert kept > 150
    assert returned < 20
