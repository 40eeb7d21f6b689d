"""One run in two processes that torchrun, or srun, has started."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.runs.folders import list_runs
from pipeline.tracking.spool import POINTS, lane_file, records_of
from tests.e2e.conftest import Outcome
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).parents[2]
TORCHRUN = (
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "pipeline",
)

#: In types that do not round away what is compared.
WORDS = ("debug=quick", "tokenizer=bytes", "trainer.precision=fp32", "optimizer.newton_schulz=fp32")

#: Recorded on the disk alone.
SPOOLED = ("tracking.uri=http://127.0.0.1:9", "tracking.end_wait_s=0.1", "tracking.system_metrics=false")

#: Too long to end by itself, with many checkpoints.
LONG = (
    "tracking=off",
    "trainer.max_steps=100000",
    "trainer.compile=false",
    "trainer.checkpoint_every_steps=5",
    "trainer.val_every_steps=100000",
)


def start(folder: Path, *words: str, **environ: str) -> "subprocess.Popen[str]":
    """The command in this folder."""
    return subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(folder: Path) -> list[float]:
    """The training loss of each step of a run."""
    points = records_of(lane_file(folder / "tracking", POINTS), "metrics")
    return [point["values"]["train/loss"] for point in points if "train/loss" in point["values"]]


def is_over(process: "subprocess.Popen[str]", others: list[psutil.Process]) -> tuple[int, str]:
    """Exit code and standard error of a command of which a process was killed; all others are gone then."""
    _, said = process.communicate(timeout=LIMIT_S)
    _, alive = psutil.wait_procs(others, timeout=LIMIT_S)
    assert not alive
    return process.returncode, said


def trained_a_while(folder: Path, process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes below this one, once there is a checkpoint."""
    saved = lambda: list(folder.glob("runs/*/checkpoints/last.ckpt"))  # noqa: E731
    wait_until(saved, "the run has saved a checkpoint", process=process)
    return psutil.Process(process.pid).children(recursive=True)


def of_rank(number: int, name: str, below: list[psutil.Process]) -> psutil.Process:
    """The process of the run with this number in the variable."""
    (found,) = (
        one for one in below if one.environ().get(name) == str(number) and "pretrain" in one.cmdline()
    )
    return found


@pytest.mark.slow
def test_two_processes_of_torchrun_are_one_run_with_the_losses_of_one_process_which_can_go_on_with_it(
    run: Callable[..., Outcome], text_file: Path, tmp_path: Path
) -> None:
    files = ("data=files", f"data.train={text_file}", "schedule=constant")  # of any length
    words = (*files, *WORDS, *SPOOLED, "trainer.log_every_steps=1")
    process = start(tmp_path, *TORCHRUN, "pretrain", *words, "name=two", "--json")
    out, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    assert json.loads(out)["bundle"] == "runs/two/bundles/best"
    assert [one.name for one in list_runs(tmp_path / "runs")] == ["two"]
    assert said.count("two: done") == 1
    assert said.count("Tokenizer ") == 1
    longer = ("resume=two", "trainer.max_steps=30", "trainer.devices=1")
    refused = run("pretrain", *longer)
    assert refused.code == 2
    assert "8 rows per step, and would now have 4: trainer.batch_size=4 and " in refused.error
    assert "resume=two trainer.batch_size=4 trainer.accumulate=2" in refused.error
    assert run("pretrain", *longer, "trainer.batch_size=4", "trainer.accumulate=2").code == 0
    assert run("pretrain", *words, "name=one", "trainer.batch_size=8", "trainer.max_steps=30").code == 0
    of_one = losses(tmp_path / "runs" / "one")
    assert len(of_one) == 30
    assert losses(tmp_path / "runs" / "two") == pytest.approx(of_one, rel=1e-5)


@pytest.mark.slow
def test_a_process_of_torchrun_that_dies_ends_the_run_which_can_be_resumed(
    text_file: Path, tmp_path: Path
) -> None:
    words = ("pretrain", "data=files", f"data.train={text_file}", *WORDS, *LONG)
    process = start(tmp_path, *TORCHRUN, *words)
    below = trained_a_while(tmp_path, process)
    of_rank(1, "RANK", below).send_signal(signal.SIGKILL)
    code, said = is_over(process, below)
    assert code == 1
    root_cause = said.partition("Root Cause")[2]
    assert "rank      : 1" in root_cause
    assert "-9" in root_cause
    (before,) = list_runs(tmp_path / "runs")
    assert before.record.status in ("FAILED", "KILLED")
    process = start(tmp_path, *TORCHRUN, *words, f"resume={before.name}", "trainer.time_budget_s=0.5")
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    assert "(resumed)" in said
    (after,) = list_runs(tmp_path / "runs")
    assert (after.record.status, after.name) == ("FINISHED", before.name)


@pytest.mark.slow
def test_a_process_of_this_program_that_dies_ends_the_run_and_is_named(
    text_file: Path, tmp_path: Path
) -> None:
    words = ("pretrain", "data=files", f"data.train={text_file}", *WORDS, *LONG, "trainer.devices=2")
    process = start(tmp_path, sys.executable, "-m", "pipeline", *words)
    below = trained_a_while(tmp_path, process)
    of_rank(1, "LOCAL_RANK", below).send_signal(signal.SIGKILL)
    code, said = is_over(process, below)
    # Lightning kills the first process within five seconds, which comes before its own error or after.
    assert code in (2, -signal.SIGKILL)
    assert re.search(
        r"process 1 of 2 has ended with exit code -9|rank: 1. Child process .* with code -9", said
    )
    assert "Traceback" not in said


@pytest.mark.slow
def test_tasks_of_srun_with_different_commands_are_refused_by_the_first_before_there_is_a_run(
    text_file: Path, tmp_path: Path
) -> None:
    slurm = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
    }
    words = (
        sys.executable,
        "-m",
        "pipeline",
        "pretrain",
        "data=files",
        f"data.train={text_file}",
        *WORDS,
        "tracking=off",
    )
    first, other = (
        start(tmp_path, *words, f"seed={rank}", **slurm, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
        for rank in range(2)
    )
    _, said = first.communicate(timeout=LIMIT_S)
    assert "differs from process 0, whose values come first: seed is 0, not 1" in said
    assert other.communicate(timeout=LIMIT_S)[1].strip() == ""
    assert (first.returncode, other.returncode) == (2, 2)
    assert not (tmp_path / "runs").exists()
