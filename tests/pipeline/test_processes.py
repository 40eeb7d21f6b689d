"""The processes that a run starts on its own machine end with it."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.processes import FIRST_PROCESS, SHARED_RUN
from tests.waiting import LIMIT_S


def test_a_process_that_starts_after_the_first_one_has_ended_ends_too(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    shared = {SHARED_RUN: str(tmp_path), FIRST_PROCESS: str(ended.pid), "LOCAL_RANK": "1"}
    code = "import time; from pipeline.processes import shared_run; shared_run(); time.sleep(600)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **shared},
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"")
