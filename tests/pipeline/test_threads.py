"""OpenMP itself says what it was told."""

import os
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
