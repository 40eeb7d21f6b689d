import hashlib
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.runs.checkpoint_files import AtomicCheckpointIO, check_writable
from pipeline.training.callbacks.task_metrics import TaskMetrics
from tests.pipeline.toy import Recorder, StopAfter, ToyTraining, checkpoint
from tests.pipeline.training.test_resume import crash, finish

pytestmark = pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning")

OLD = {"state_dict": {"weight": torch.arange(4.0)}, "global_step": 1}
NEW = {"state_dict": {"weight": torch.arange(40_000.0)}, "global_step": 2}


@contextmanager
def full_disk(max_bytes: int) -> Iterator[None]:
    """No file can grow beyond `max_bytes`: the system answers as it does when a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint(OLD, tmp_path / "x.ckpt")
    loaded = io.load_checkpoint(tmp_path / "x.ckpt")
    assert loaded["global_step"] == 1
    assert torch.equal(loaded["state_dict"]["weight"], OLD["state_dict"]["weight"])


def test_the_checksum_is_that_of_the_file_and_no_draft_is_left(tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(NEW, tmp_path / "x.ckpt")
    digest = hashlib.sha256((tmp_path / "x.ckpt").read_bytes()).hexdigest()
    assert (tmp_path / "x.ckpt.sha256").read_text() == f"{digest}  x.ckpt\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.ckpt", "x.ckpt.sha256"]


@pytest.mark.parametrize("position", [0, 100, -1])
def test_one_flipped_bit_is_noticed(tmp_path: Path, position: int) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint(OLD, tmp_path / "x.ckpt")
    data = bytearray((tmp_path / "x.ckpt").read_bytes())
    data[position] ^= 1
    (tmp_path / "x.ckpt").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        io.load_checkpoint(tmp_path / "x.ckpt")


def test_a_missing_checkpoint_or_checksum_is_named(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    with pytest.raises(CheckpointError, match=r"no checkpoint .*x\.ckpt"):
        io.load_checkpoint(tmp_path / "x.ckpt")
    io.save_checkpoint(OLD, tmp_path / "x.ckpt")
    (tmp_path / "x.ckpt.sha256").unlink()
    with pytest.raises(CheckpointError, match="has no checksum"):
        io.load_checkpoint(tmp_path / "x.ckpt")


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm-was-done",)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    io = AtomicCheckpointIO()
    io.save_checkpoint({"x": Harmful()}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
        io.load_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    assert not (tmp_path / "harm-was-done").exists()


def test_a_full_disk_is_reported_and_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint(OLD, tmp_path / "x.ckpt")
    with (
        full_disk(50_000),
        pytest.raises(CheckpointError, match=r"cannot write .*x\.ckpt \(File too large\)"),
    ):
        io.save_checkpoint(NEW, tmp_path / "x.ckpt")
    assert io.load_checkpoint(tmp_path / "x.ckpt")["global_step"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.ckpt", "x.ckpt.sha256"]


@pytest.mark.parametrize("replacement", [0, 1, 2])
def test_a_crash_between_any_two_replacements_leaves_a_checkpoint_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacement: int
) -> None:
    io = AtomicCheckpointIO()
    io.save_checkpoint(OLD, tmp_path / "x.ckpt")
    replaced = []
    os_replace = os.replace

    def crash_at(source: Path, target: Path) -> None:
        if len(replaced) == replacement:
            raise KeyboardInterrupt
        replaced.append(target)
        os_replace(source, target)

    monkeypatch.setattr(os, "replace", crash_at)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint(NEW, tmp_path / "x.ckpt")
    monkeypatch.undo()
    assert io.load_checkpoint(tmp_path / "x.ckpt")["global_step"] == (1 if replacement < 2 else 2)
    io.save_checkpoint(NEW, tmp_path / "x.ckpt")
    assert io.load_checkpoint(tmp_path / "x.ckpt")["global_step"] == 2
    assert len((tmp_path / "x.ckpt.sha256").read_text().splitlines()) == 1


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*file/sub"):
        check_writable(tmp_path / "file" / "sub")


def test_an_unwritable_folder_is_noticed_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder()
    with pytest.raises(CheckpointError, match="cannot write"):
        ToyTraining(folder=tmp_path / "file").fit(logger=recorder)
    assert recorder.points == []


def test_a_disk_that_fills_up_ends_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path)
    crash(training, after=3, resume=False, logger=Recorder())
    with full_disk(2_000), pytest.raises(CheckpointError, match="cannot write"):
        training.fit(resume=True)
    assert checkpoint(tmp_path)["global_step"] == 3


def test_a_damaged_checkpoint_is_not_resumed_from(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path)
    crash(training, after=3, resume=False, logger=Recorder())
    with (tmp_path / "last.ckpt").open("r+b") as file:
        file.seek(200)
        file.write(b"\xff\xff")
    with pytest.raises(CheckpointError, match="damaged"):
        training.fit(resume=True)


def test_last_is_the_last_step_and_best_the_best_validation(tmp_path: Path) -> None:
    recorder = Recorder()
    finish(ToyTraining(folder=tmp_path, val_every_steps=3, max_steps=10), resume=False, logger=recorder)
    losses = recorder.of("val/loss")
    assert list(losses) == [3, 6, 9, 10]
    best = min(losses, key=lambda step: losses[step])
    assert checkpoint(tmp_path)["global_step"] == 10
    saved = checkpoint(tmp_path, "best.ckpt")
    assert saved["global_step"] == best
    state = saved["callbacks"]["Checkpoints"]
    assert (state["best_value"], state["best_step"]) == (losses[best], best)


def test_of_validations_that_tie_the_one_of_the_lowest_loss_is_kept_and_the_tie_is_known(
    tmp_path: Path,
) -> None:
    recorder = Recorder()
    training = ToyTraining(folder=tmp_path, val_every_steps=3, monitor="val/rouge_l")
    training.with_(extra=(TaskMetrics(lambda: {"rouge_l": 0.0}),)).fit(logger=recorder)
    losses = recorder.of("val/loss")
    best = min(losses, key=lambda step: losses[step])
    assert best > 3
    saved = checkpoint(tmp_path, "best.ckpt")
    assert saved["global_step"] == best
    assert saved["callbacks"]["Checkpoints"]["is_tied"] is True


def test_one_better_validation_is_no_tie_and_its_weights_are_kept(tmp_path: Path) -> None:
    values = iter([2.0, 2.0, 1.0, 2.0])
    metric = TaskMetrics(lambda: {"reply_perplexity": next(values)})
    training = ToyTraining(folder=tmp_path, val_every_steps=3, monitor="val/reply_perplexity")
    training.with_(extra=(metric,)).fit()
    assert checkpoint(tmp_path, "best.ckpt")["global_step"] == 9
    assert checkpoint(tmp_path)["callbacks"]["Checkpoints"]["is_tied"] is False


def test_checkpoints_are_saved_at_optimizer_steps_only(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path, accumulate=3, save_every_steps=2)
    crash(training, after=4, resume=False, logger=Recorder())
    state = checkpoint(tmp_path)
    assert state["global_step"] == 4
    assert state["PretrainDataModule"]["rows_done"] == 48
    crash(training.with_(extra=(StopAfter(4),)), after=5, resume=True, logger=Recorder())
    assert checkpoint(tmp_path)["PretrainDataModule"]["rows_done"] == 48
