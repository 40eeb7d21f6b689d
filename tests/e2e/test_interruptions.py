"""Signals, crashes and rivals at any moment: the end is told, nothing is half written, the run goes on."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modules.lit_module import LitModule
from modules.metrics import RowLoss
from pipeline import prepare
from pipeline.runs import bundle
from pipeline.runs.bundle import is_finished, load_bundle
from pipeline.stages.pretrain import prepare as stage
from pipeline.training.callbacks.seeding import StepSeed
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parent.parent.parent
WORDS = ("debug=quick", "tokenizer=bytes", "packing=concat", "data=files", "data.train=my.txt", "name=mine")
GOOD = "".join(f"Line {i} of a long poem about nothing much, {i * i} times.\n" for i in range(400))


@pytest.fixture
def pretrain(run, tmp_path: Path):
    """Pretrains on my.txt, in this process, with further words."""
    (tmp_path / "my.txt").write_text(GOOD)
    return lambda *words: run("pretrain", *WORDS, "tracking=off", *words)


def signalled(number: int, function: Callable[..., Any], *, at_call: int = 1) -> Callable[..., Any]:
    """`function`, in whose call number `at_call` this process gets a signal."""
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    return call


def status(folder: Path) -> str:
    return str(json.loads((folder / "runs/mine/run.json").read_text())["status"])


def half_written(folder: Path) -> list[Path]:
    unfinished = [place for place in folder.glob(".cache/rows/*/") if not (place / "manifest.json").exists()]
    return unfinished + [
        file for file in folder.rglob("*") if "draft" in file.name or file.suffix in (".tmp", ".old")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["known_corpus", "build_tokenizer", "_encoded", "build_model"])
def test_a_signal_before_training_ends_the_run_as_killed_and_leaves_nothing_half_written(
    moment: str, number: int, code: int, pretrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where = prepare if moment == "_encoded" else stage
    monkeypatch.setattr(where, moment, signalled(number, getattr(where, moment)))
    stopped = pretrain()
    assert stopped.code == code
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[signal.Signals(number)]
    assert stopped.error == f"error: stopped by {name}; no incomplete files were left"
    assert status(tmp_path) == "KILLED"
    assert not half_written(tmp_path)


@pytest.mark.slow
def test_a_run_that_is_stopped_in_training_and_resumed_ends_as_if_it_had_not_been(
    pretrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = pretrain("name=whole", "trainer.precision=fp32")
    assert whole.code == 0, whole.err
    hook = "on_train_batch_start"
    with monkeypatch.context() as patch:
        patch.setattr(StepSeed, hook, signalled(signal.SIGINT, getattr(StepSeed, hook), at_call=7))
        stopped = pretrain("trainer.precision=fp32")
    assert stopped.code == 130
    assert "stopped by Ctrl-C after step 7 of 20, which was saved" in stopped.error
    assert "RESUME=1" in stopped.error
    assert status(tmp_path) == "KILLED"
    assert not (tmp_path / "runs/mine/bundles").exists()

    resumed = pretrain("resume=true", "trainer.precision=fp32", "name=null")
    assert resumed.code == 0, resumed.err
    assert status(tmp_path) == "FINISHED"
    assert resumed.result["metrics"] == whole.result["metrics"]
    weights = [tmp_path / f"runs/{name}/bundles/best/model.safetensors" for name in ("whole", "mine")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_a_signal_in_a_validation_stops_the_run_after_it(
    pretrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hook = "validation_step"
    monkeypatch.setattr(LitModule, hook, signalled(signal.SIGTERM, getattr(LitModule, hook)))
    stopped = pretrain()
    assert stopped.code == 143
    assert "after step 10 of 20, which was saved" in stopped.error
    assert status(tmp_path) == "KILLED"


@pytest.mark.slow
@pytest.mark.parametrize("at_call", [1, 2])
def test_a_run_that_is_stopped_while_its_bundles_are_written_is_resumed_and_writes_them(
    at_call: int, pretrain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "_move", signalled(signal.SIGTERM, bundle._move, at_call=at_call))
        stopped = pretrain()
    assert stopped.code == 143
    assert stopped.error == (
        "error: stopped by SIGTERM\n"
        "hint: run the same command with RESUME=1 to resume from the last checkpoint"
    )
    assert status(tmp_path) == "KILLED"
    assert not half_written(tmp_path)
    assert [is_finished(tmp_path / f"runs/mine/bundles/{name}") for name in ("last", "best")] == [
        at_call == 2,
        False,
    ]
    resumed = pretrain("resume=true")
    assert resumed.code == 0, resumed.err
    assert status(tmp_path) == "FINISHED"
    assert load_bundle(Path(resumed.result["bundle"])).metrics == resumed.result["metrics"]
    assert resumed.result["metrics"]["val/loss"] < 5


@pytest.mark.slow
def test_a_signal_in_an_evaluation_ends_it_with_the_code_of_the_signal(
    pretrain, run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert pretrain("trainer.max_steps=1").code == 0
    monkeypatch.setattr(RowLoss, "update", signalled(signal.SIGINT, RowLoss.update))
    stopped = run("evaluate", "data=files", "data.train=my.txt", "tracking=off", "name=measured")
    assert stopped.code == 130
    assert stopped.error == "error: stopped by Ctrl-C; no incomplete files were left"
    assert json.loads((tmp_path / "runs/measured/run.json").read_text())["status"] == "KILLED"


def out_of_memory(function: Callable[..., Any], *, at_call: int = 1) -> Callable[..., Any]:
    """`function`, in whose call number `at_call` more memory is asked for than there can be."""
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            torch.empty(2**60, dtype=torch.uint8)
        return function(*arguments, **options)

    return call


@pytest.mark.slow
def test_a_run_whose_memory_runs_out_says_so_and_is_resumed_with_what_it_hints_at(
    pretrain, run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LitModule, "training_step", out_of_memory(LitModule.training_step, at_call=12))
        failed = pretrain("trainer.precision=fp32")
    assert failed.code == 2
    assert failed.error.startswith(
        "error: memory ran out in step 12, with 4 rows per forward pass: 1152921504606846976 "
    )
    assert failed.error.endswith(
        "1152921504606846976 bytes could not be allocated; expected a step that fits into memory\n"
        "hint: use resume=mine with trainer.batch_size=2 trainer.accumulate=2 or "
        "trainer.activation_checkpointing=full, for the same steps with less memory"
    )
    assert status(tmp_path) == "FAILED"
    assert not half_written(tmp_path)
    less = ("trainer.batch_size=2", "trainer.accumulate=2", "trainer.activation_checkpointing=full")
    resumed = run("pretrain", "resume=mine", "tracking=off", *less)
    assert resumed.code == 0, resumed.err
    assert status(tmp_path) == "FINISHED"


@pytest.mark.slow
def test_memory_that_runs_out_in_an_evaluation_is_one_clear_error(
    pretrain, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretrain("trainer.max_steps=1").code == 0
    monkeypatch.setattr(RowLoss, "update", out_of_memory(RowLoss.update))
    failed = run("evaluate", "data=files", "data.train=my.txt", "tracking=off")
    assert failed.code == 2
    assert failed.error == (
        "error: memory ran out: 1152921504606846976 bytes could not be allocated\n"
        "hint: close other programs, use a smaller model, or process fewer rows or tokens at once"
    )


@pytest.mark.slow
def test_the_signals_are_given_back_when_a_stage_ends(pretrain) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert pretrain("trainer.max_steps=1").code == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


class Command:
    """`python -m pipeline` as a process of its own; its standard error is read line by line."""

    def __init__(self, folder: Path, *words: str, python: tuple[str, ...] = ()) -> None:
        (folder / "my.txt").write_text(GOOD)
        self.lines: list[str] = []
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        self.process = subprocess.Popen(
            [sys.executable, *python, "-m", "pipeline", *words],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._limit = threading.Timer(LIMIT_S, self.process.kill)
        self._limit.start()

    def read_until(self, mark: str) -> None:
        """Wait for a line that holds `mark`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if mark in line:
                return
        raise AssertionError(f"no line with '{mark}' in {self.lines}")

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self.lines += stream.read().splitlines()
        code = self.process.wait()
        self._limit.cancel()
        return code


FOR_HOURS = ("trainer.max_steps=100000", "trainer.compile=false")
LONG = ("pretrain", *WORDS, *FOR_HOURS, "trainer.val_every_steps=10", "trainer.val_rows=2")


@pytest.mark.slow
def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path: Path) -> None:
    command = Command(tmp_path, *LONG, "tracking=off", python=("-X", "importtime"))
    command.read_until("hydra.core")
    command.process.send_signal(signal.SIGINT)
    assert command.end() == 130
    assert command.lines[-1] == "error: stopped by Ctrl-C; no incomplete files were left"
    assert not any("Traceback" in line for line in command.lines)


@pytest.mark.slow
def test_ctrl_c_reaches_all_processes_and_is_told_once(tmp_path: Path) -> None:
    command = Command(tmp_path, *LONG, "tracking=off", "trainer.num_workers=2")
    command.read_until("pretrain causal_lm: step")
    os.killpg(command.process.pid, signal.SIGINT)
    assert command.end() == 130
    assert "which was saved" in command.lines[-2]
    assert command.lines[-1].startswith("hint: run the same command with RESUME=1")
    assert sum("finishing the step" in line for line in command.lines) == 1
    assert not any("Traceback" in line for line in command.lines)
    assert status(tmp_path) == "KILLED"


@pytest.mark.slow
def test_a_run_that_was_killed_is_resumed(tmp_path: Path, run) -> None:
    command = Command(tmp_path, *LONG, "tracking=off")
    checkpoint = tmp_path / "runs/mine/checkpoints/last.ckpt"
    while not checkpoint.exists():
        command.read_until("pretrain causal_lm: step")
    assert "in use by another process" in run(*LONG, "tracking=off", "resume=mine").error
    command.process.kill()
    assert command.end() == -signal.SIGKILL
    assert status(tmp_path) == "RUNNING"
    # killed between the two, the best may be of a later step than the last
    step = 1 + max(load_step(saved) for saved in checkpoint.parent.glob("*.ckpt"))
    resumed = run(*LONG, "tracking=off", "resume=mine", f"trainer.max_steps={step}")
    assert resumed.code == 0, resumed.err
    assert load_bundle(Path(resumed.result["bundle"])).provenance["step"] <= step
    assert status(tmp_path) == "FINISHED"


def load_step(checkpoint: Path) -> int:
    from pipeline.runs.checkpoint_files import AtomicCheckpointIO

    return int(AtomicCheckpointIO().load_checkpoint(checkpoint)["global_step"])


@pytest.mark.slow
def test_two_runs_that_start_together_share_the_cache_and_both_finish(tmp_path: Path) -> None:
    # Each process would measure by itself whether bf16 is faster, while the other one disturbs it.
    chosen = ("trainer.precision=fp32", "optimizer.newton_schulz=fp32")
    words = ("pretrain", *WORDS, "tracking=off", *chosen)
    first, second = Command(tmp_path, *words), Command(tmp_path, *words)
    assert (first.end(), second.end()) == (0, 0), first.lines + second.lines
    weights = [tmp_path / f"runs/{name}/bundles/best/model.safetensors" for name in ("mine", "mine-2")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not half_written(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "mark", "number", "end"),
    [
        ([*FOR_HOURS], "pretrain causal_lm: step", signal.SIGINT, "KILLED"),
        (["optimizer.lr=nan"], "error:", None, "FAILED"),
    ],
)
def test_mlflow_knows_how_a_run_ended(
    words: list[str], mark: str, number: int | None, end: str, tmp_path: Path
) -> None:
    command = Command(tmp_path, "pretrain", *WORDS, "tracking.end_wait_s=600", *words)
    command.read_until(mark)
    if number is not None:
        command.process.send_signal(number)
    assert command.end() == (2 if number is None else 128 + number)
    assert status(tmp_path) == end
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        assert store.execute("SELECT status FROM runs").fetchall() == [(end,)]
