"""One run in two tasks of Slurm, where it is installed and has a node."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runs.folders import list_runs
from tests.e2e.test_torchrun import LONG, WORDS, start
from tests.waiting import LIMIT_S, wait_until


def has_node() -> bool:
    """Whether Slurm is here, with a node that can take a job."""
    if shutil.which("srun") is None:
        return False
    asked = subprocess.run(
        ["sinfo", "--noheader", "--states=idle"], capture_output=True, text=True, timeout=20, check=False
    )
    return bool(asked.stdout.strip())


@pytest.mark.slow
def test_tasks_of_srun_that_get_slurms_warning_save_and_go_on_as_the_same_run(
    text_file: Path, tmp_path: Path
) -> None:
    if not has_node():
        pytest.skip("no Slurm here")
    tasks = ("srun", "--ntasks=2", "--wait=60", "--job-name=prelude-test", sys.executable, "-m", "pipeline")
    words = ("pretrain", "data=files", f"data.train={text_file}", *WORDS, *LONG, "name=mine")
    process = start(tmp_path, *tasks, *words)
    saved = tmp_path / "runs" / "mine" / "checkpoints" / "last.ckpt"
    wait_until(saved.exists, "the run has saved a checkpoint", process=process)
    subprocess.run(["scancel", "--signal=USR1", "--name=prelude-test"], check=True, timeout=20)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 138, said
    assert said.count("error: stopped by SIGUSR1 after step") == 1
    process = start(tmp_path, *tasks, *words, "resume=mine", "trainer.time_budget_s=0.5")
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    assert said.count("mine: done") == 1
    (run,) = list_runs(tmp_path / "runs")
    assert (run.name, run.record.status) == ("mine", "FINISHED")
