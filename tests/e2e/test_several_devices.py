"""One run on two processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Outcome
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]


def pretrain(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own: the processes of a run stay connected until they end."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "pretrain", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_make_one_run_with_one_bundle_and_one_result(text_file: Path, tmp_path: Path) -> None:
    words = ("data=files", f"data.train={text_file}", "debug=quick", "tokenizer=bytes", "tracking=off")
    done = pretrain(tmp_path, *words, "trainer.devices=2", "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert Path(tmp_path / json.loads(done.stdout)["bundle"] / "DONE").exists()
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert done.stderr.count("Tokenizer ") == 1


@pytest.mark.slow
def test_a_shard_that_is_missing_is_reported_once_and_the_checkpoint_resumes_in_one_process_when_it_is_back(
    text_file: Path, tmp_path: Path
) -> None:
    words = ("data=files", f"data.train={text_file}", "debug=quick", "tokenizer=bytes", "tracking=off")
    sharded = ("trainer.devices=2", "trainer.strategy=fsdp", "schedule=constant", "name=two")
    first = pretrain(tmp_path, *words, *sharded)
    assert first.returncode == 0, first.stderr
    (shard,) = (tmp_path / "runs" / "two" / "checkpoints").glob("last.shards-*/__1_0.distcp")
    away = shard.rename(tmp_path / "away")
    refused = pretrain(tmp_path, "resume=two", "trainer.devices=2", "trainer.max_steps=22")
    assert refused.returncode == 2
    assert refused.stderr.count("error: ") == 1
    assert "__1_0.distcp is missing, a part of the checkpoint" in refused.stderr
    away.rename(shard)
    alone = ("trainer.devices=1", "trainer.batch_size=8", "trainer.strategy=ddp", "trainer.max_steps=22")
    done = pretrain(tmp_path, "resume=two", *alone)
    assert done.returncode == 0, done.stderr


def test_far_more_processes_than_cores_are_refused_before_one_is_started(
    run: Callable[..., Outcome], text_file: Path
) -> None:
    refused = run(
        "pretrain",
        "data=files",
        f"data.train={text_file}",
        "debug=quick",
        "trainer.accelerator=cpu",
        "trainer.devices=5000",
    )
    assert refused.code == 2
    assert "trainer.devices=5000 would start 5000 processes, without a GPU, where " in refused.error
    assert not Path("runs").exists()
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_a_rank_left_in_the_environment_is_refused_before_there_is_a_run(
    name: str, run: Callable[..., Outcome], text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRELUDE_RUN", raising=False)
    monkeypatch.setenv(name, "1")
    refused = run("pretrain", "data=files", f"data.train={text_file}", "debug=quick", "tracking=off")
    assert refused.code == 2
    assert f"{name}=1 in the environment" in refused.error
    assert not Path("runs").exists()
