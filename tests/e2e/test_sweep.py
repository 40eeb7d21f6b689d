"""A sweep as a user runs it: real trials, MLflow, Ctrl-C, a kill, a cluster."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline.tracking.options import Store
from pipeline.tracking.spool import Progress
from pipeline.tracking.store import open_client
from tests.e2e.conftest import Outcome
from tests.waiting import LIMIT_S, wait_until

Call = Callable[..., Outcome]
ROOT = Path(__file__).parent.parent.parent
FEW = ("debug=quick", "data.n_train_rows=60", "data.n_validation_rows=12", "tokenizer=bytes", "name=mine")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def rows() -> list[dict[str, str]]:
    with open("runs/mine/trials.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # of MLflow
def test_a_grid_with_an_impossible_value_and_one_that_diverges_names_the_best_and_is_in_mlflow(
    run: Call,
) -> None:
    done = run("sweep", *FEW, "optimizer.lr=0.004,fast,nan", "optimizer=muon,sgd", "tracking.end_wait_s=600")
    assert done.code == 0, done.err
    table = {(row["optimizer.lr"], row["optimizer"]): row for row in rows()}
    assert {key: row["state"] for key, row in table.items() if key[1] == "muon"} == {
        ("0.004", "muon"): "done", ("fast", "muon"): "failed", ("nan", "muon"): "failed",
    }  # fmt: skip
    assert all("sgd: no such option" in row["reason"] for key, row in table.items() if key[1] == "sgd")
    assert "not finite at step" in table["nan", "muon"]["reason"]
    best = table["0.004", "muon"]
    assert done.result["bundle"] == f"runs/{best['run']}/bundles/best"
    assert done.result["metrics"]["val/loss"] == float(best["val/loss"])
    assert "make pretrain ARGS=" in done.err
    assert Path("runs/mine/trials.png").read_bytes().startswith(b"\x89PNG")
    assert_siblings_are_tied_in_mlflow(best["run"])


def assert_siblings_are_tied_in_mlflow(best: str) -> None:
    progress = Progress.load(Path("runs/mine/tracking"))
    client = open_client(Store(str(progress.uri), None))
    experiments = {one.experiment_id: one.name for one in client.search_experiments()}
    found = client.search_runs(list(experiments), "tags.sweep_id = 'mine'")
    names = {run.info.run_name: run for run in found}
    summary = names.pop("mine")
    assert experiments[summary.info.experiment_id] == "prelude-reports"
    assert {experiments[run.info.experiment_id] for run in names.values()} == {"prelude"}
    assert best in names
    assert all("mlflow.parentRunId" not in run.data.tags for run in found)
    assert summary.data.tags["best_run"] == best
    assert "make pretrain ARGS=" in summary.data.tags["mlflow.note.content"]
    assert "workflowType=machine_learning" in summary.data.tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(summary.info.run_id)}
    assert {"trials.csv", "trials.md", "trials.png"} <= files
    client._tracking_client.store._dispose_engine()


@pytest.mark.slow
def test_a_sweep_of_which_all_trials_fail_ends_with_code_2_and_the_first_reason(
    run: Call, tmp_path: Path
) -> None:
    refused = run("sweep", "optimizer.rate=1e-4,3e-4", "tracking=off")
    assert refused.code == 2
    assert "optimizer.rate: Muon takes no such key" in refused.error
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_trials_that_fail_in_their_processes_end_the_sweep_with_the_first_reason(run: Call) -> None:
    files = ("data=files", "data.train=nowhere.txt,nobody.txt")
    failed = run("sweep", "debug=quick", *files, "name=mine", "tracking=off", "sweep.parallel=2")
    assert failed.code == 2
    assert "none of 2 trials succeeded (the first one: " in failed.error
    assert "nowhere.txt" in failed.error
    assert json.loads(Path("runs/mine/run.json").read_text())["status"] == "FAILED"


def started(*words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "pipeline", "sweep", *words, "tracking=off"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_stopped_goes_on_where_it_was_and_ends_as_if_it_had_not_been(
    number: signal.Signals, run: Call
) -> None:
    words = (*FEW, "seed=1,2", "trainer.max_steps=150", "trainer.checkpoint_every_steps=5")
    words = (*words, "trainer.precision=fp32")
    process = started(*words)
    saved = lambda: list(Path("runs").glob("mine-01*/checkpoints/last.ckpt"))  # noqa: E731
    wait_until(saved, "the second trial has saved a checkpoint", process=process)
    process.send_signal(number)
    assert process.wait(LIMIT_S) == (130 if number == signal.SIGINT else -9)
    done = run("sweep", *words, "resume=true", "tracking=off")
    assert done.code == 0, done.err
    assert sorted(row["run"] for row in rows()) == ["mine-00-seed-1", "mine-01-seed-2"]
    alone = run("pretrain", *words[:-4], "seed=2", *words[-3:], "name=alone", "tracking=off")
    assert alone.code == 0, alone.err
    (second,) = (row for row in rows() if row["seed"] == "2")
    assert float(second["val/loss"]) == alone.result["metrics"]["val/loss"]
    refused = run("sweep", *words, "resume=true", "tracking=off")
    assert refused.code == 2
    assert "is finished: all 2 trials have ended" in refused.error


@pytest.mark.slow
def test_optuna_prunes_trials_by_their_validations_several_at_once(run: Call) -> None:
    few = (*FEW, "trainer.max_steps=60", "trainer.val_every_steps=5", "sweep.parallel=2")
    words = (
        *few,
        "optimizer.lr=choice(0.01,1e-7)",
        "optimizer.embedding_lr=tag(log,interval(1e-7,2e-1))",
    )
    done = run("sweep", *words, "sweep.sampler=optuna", "sweep.trials=5", "sweep.prune_after=1")
    assert done.code == 0, done.err
    states = [row["state"] for row in rows()]
    assert len(states) == 5
    assert "pruned" in states, done.err
    assert states[0] == "done"


def apart(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # Submitit's import closes logging's handlers, and absl's would close pytest's stderr with it.
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_trials_are_handed_over_to_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    monkeypatch.chdir(tmp_path)
    cluster = ("sweep.launcher=submitit_local", "sweep.slurm.timeout_min=10", "sweep.slurm.partition=any")
    words = ("sweep", *FEW, "seed=1,2", "optimizer=muon,sgd", *cluster, "tracking=off", "--json")
    done = apart(words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["metrics"]
    assert [row["state"] for row in rows()] == ["done", "done", "failed", "failed"]
    assert list(Path("runs/mine/jobs").glob("*/*_result.pkl"))


@pytest.mark.slow
def test_without_slurm_the_hand_over_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any((Path(folder) / "srun").exists() for folder in os.environ["PATH"].split(os.pathsep)):
        pytest.skip("Slurm is here")
    monkeypatch.chdir(tmp_path)
    refused = apart(("sweep", "seed=1,2", "sweep.launcher=slurm", "tracking=off"))
    assert refused.returncode == 2
    assert "Slurm is not installed here" in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_resume_without_a_sweep_and_with_other_keys_is_refused(run: Call) -> None:
    refused = run("sweep", "seed=1,2", "resume=true", "tracking=off")
    assert refused.code == 2
    assert "no sweep to resume in runs" in refused.error
    folder = Path("runs/mine")
    folder.mkdir(parents=True)
    record = {"name": "mine", "stage": "sweep", "config_hash": "x", "created": "2026", "status": "KILLED"}
    (folder / "run.json").write_text(json.dumps(record))
    began = {"stage": "pretrain", "sampler": "grid", "seed": 1, "keys": {"seed": "1,3"}, "words": []}
    (folder / "sweep.json").write_text(json.dumps({**began, "metric": "val/loss", "direction": "minimize"}))
    refused = run("sweep", "seed=1,2", "resume=true", "tracking=off")
    assert refused.code == 2
    assert "runs/mine was started with seed=1,3, not seed=1,2" in refused.error
