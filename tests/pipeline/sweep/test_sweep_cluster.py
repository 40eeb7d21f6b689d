"""What a job of a cluster runs: its trial is not hit by the warning that the time is nearly over."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.sweep.cluster import TrialCommand
from pipeline.sweep.launch import Work
from tests.waiting import LIMIT_S, wait_until

TRIAL = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit("saved"))
print("began with", os.environ.get("OMP_NUM_THREADS"), os.environ.get("SLURM_JOB_ID"), flush=True)
while True:
    signal.pause()
"""


class Trial(Work):
    def command(self) -> list[str]:
        return [sys.executable, "-S", "-c", TRIAL]


def trial(folder: Path) -> Trial:
    return Trial(stage="pretrain", words=[], folder=folder / "trial", log=folder / "trial.log")


def test_slurms_warning_does_not_end_the_trial_which_saves_when_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    work, codes = trial(tmp_path), []
    job = threading.Thread(target=lambda: codes.append(TrialCommand(work)()))
    job.start()
    wait_until(lambda: work.log.exists() and "began" in work.log.read_text(), "the trial has begun")
    alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    (process,) = (child for child in alive if TRIAL in child.cmdline())
    os.kill(process.pid, signal.SIGUSR2)
    time.sleep(0.2)
    assert job.is_alive()
    process.terminate()
    job.join(LIMIT_S)
    assert codes == [1]
    assert work.log.read_text() == "began with 3 None\nsaved\n"


@pytest.mark.parametrize("saved", [True, False])
def test_a_job_that_comes_again_goes_on_or_begins_anew_where_nothing_was_saved(
    saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = trial(tmp_path)
    (work.folder / "checkpoints").mkdir(parents=True)
    if saved:
        (work.folder / "checkpoints" / "last.ckpt").touch()
    monkeypatch.setattr(Trial, "command", lambda _: [sys.executable, "-S", "-c", ""])
    assert TrialCommand(work)() == 0
    assert work.folder.exists() == saved
