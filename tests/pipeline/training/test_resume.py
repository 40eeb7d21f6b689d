"""N steps are k steps, an end of any kind, and N - k steps more: bit for bit."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pipeline.toy import (
    BatchOrder,
    CrashError,
    Recorder,
    StopAfter,
    ToyObjective,
    ToyTraining,
    checkpoint,
    differences,
)
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[3]
CLOCKED = {"wall_s", "tokens_per_second"}

pytestmark = pytest.mark.filterwarnings(
    # Lightning 2.6's own call of torch.
    r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning"
)


def crash(training: ToyTraining, *, after: int, resume: bool, logger: Recorder) -> BatchOrder:
    """Train up to step `after`, then die without a last save."""
    order = BatchOrder()
    with pytest.raises(CrashError):
        training.with_(extra=(order, StopAfter(after))).fit(resume=resume, logger=logger)
    return order


def finish(training: ToyTraining, *, resume: bool, logger: Recorder) -> BatchOrder:
    order = BatchOrder()
    training.with_(extra=(order,)).fit(resume=resume, logger=logger)
    return order


def assert_same_run(training: ToyTraining, tmp_path: Path, *, stops: list[int]) -> None:
    """A run with a crash after each of `stops` equals one without."""
    whole_log, parts_log = Recorder(), Recorder()
    whole = finish(training.with_(folder=tmp_path / "whole"), resume=False, logger=whole_log)
    in_parts = training.with_(folder=tmp_path / "parts")
    batches, losses = [], []
    for i, stop in enumerate(stops):
        order = crash(in_parts, after=stop, resume=i > 0, logger=parts_log)
        batches += order.batches
        losses += order.losses
    order = finish(in_parts, resume=True, logger=parts_log)
    assert batches + order.batches == whole.batches
    assert losses + order.losses == whole.losses
    assert [p for p in parts_log.points if p[1] not in CLOCKED] == [
        p for p in whole_log.points if p[1] not in CLOCKED
    ]
    for name in ("last.ckpt", "best.ckpt"):
        found = differences(checkpoint(tmp_path / "whole", name), checkpoint(tmp_path / "parts", name))
        assert found == []


def test_a_run_resumed_in_the_middle_of_an_epoch_is_the_same_run(tmp_path: Path) -> None:
    assert_same_run(ToyTraining(folder=tmp_path), tmp_path, stops=[3])


@pytest.mark.slow
def test_a_run_resumed_across_the_border_of_epochs_is_the_same_run(tmp_path: Path) -> None:
    # 20 rows in batches of 4 or 3: an epoch ends with a batch, or within one.
    assert_same_run(ToyTraining(folder=tmp_path), tmp_path, stops=[5])
    assert_same_run(ToyTraining(folder=tmp_path, batch_size=3), tmp_path / "within", stops=[7])


def test_a_run_resumed_right_after_a_validation_is_the_same_run_and_does_not_validate_twice(
    tmp_path: Path,
) -> None:
    assert_same_run(ToyTraining(folder=tmp_path, val_every_steps=4), tmp_path, stops=[4, 8])


def test_a_run_resumed_twice_in_a_row_is_the_same_run(tmp_path: Path) -> None:
    assert_same_run(ToyTraining(folder=tmp_path), tmp_path, stops=[4, 7])


def test_a_run_that_accumulates_gradients_is_the_same_run_after_resuming(tmp_path: Path) -> None:
    assert_same_run(ToyTraining(folder=tmp_path, accumulate=2), tmp_path, stops=[3, 5])


def test_a_run_that_is_resumed_with_more_passes_of_fewer_rows_has_the_same_steps(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path, uneven=True, log_every_steps=1, val_every_steps=4)
    whole_log, parts_log = Recorder(), Recorder()
    whole = finish(training.with_(folder=tmp_path / "whole"), resume=False, logger=whole_log)
    parts = training.with_(folder=tmp_path / "parts")
    orders = [crash(parts, after=3, resume=False, logger=parts_log)]
    orders.append(crash(parts.with_(batch_size=1, accumulate=4), after=6, resume=True, logger=parts_log))
    orders.append(finish(parts.with_(batch_size=2, accumulate=2), resume=True, logger=parts_log))
    assert [len(order.batches) for order in orders] == [3, 3 * 4, 6 * 2]
    assert len(whole.batches) == 12
    for name in ("train/loss", "val/loss", "grad_norm", "epoch"):
        found, expected = parts_log.of(name), whole_log.of(name)
        assert found.keys() == expected.keys()
        assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-5)


def test_a_run_without_averaged_weights_is_the_same_run_after_resuming(tmp_path: Path) -> None:
    assert_same_run(ToyTraining(folder=tmp_path, ema_decay=None), tmp_path, stops=[6])


def test_the_best_validation_is_not_forgotten_by_resuming(tmp_path: Path) -> None:
    assert_same_run(ToyTraining(folder=tmp_path, objective=Unlearn()), tmp_path, stops=[7])
    assert checkpoint(tmp_path / "parts", "best.ckpt")["global_step"] == 5


@pytest.mark.slow
def test_early_stopping_counts_on_after_resuming(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path, patience=2, max_steps=20, val_every_steps=1)
    assert_same_run(training, tmp_path, stops=[3, 5])


class Unlearn(ToyObjective):
    """Trains away from the data, so that the first validation is the best."""

    def loss(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        nats, n_tokens = super().loss(model, batch)
        return (-nats if model.training else nats), n_tokens


def test_a_run_that_was_stopped_early_trains_no_step_more_when_its_end_is_resumed(tmp_path: Path) -> None:
    training = ToyTraining(
        folder=tmp_path, patience=2, max_steps=20, val_every_steps=1, objective=Unlearn(), save_every_steps=5
    )
    finish(training, resume=False, logger=Recorder())
    stopped = checkpoint(tmp_path)
    assert stopped["global_step"] == 3
    assert finish(training, resume=True, logger=Recorder()).batches == []
    assert differences(stopped, checkpoint(tmp_path)) == []
    assert len(finish(training.with_(patience=4), resume=True, logger=Recorder()).batches) == 2


def test_a_run_whose_time_was_spent_trains_no_step_more_when_its_end_is_resumed(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path, time_budget_s=1e-9, save_every_steps=5)
    finish(training, resume=False, logger=Recorder())
    assert checkpoint(tmp_path)["global_step"] == 1
    assert finish(training, resume=True, logger=Recorder()).batches == []
    assert len(finish(training.with_(time_budget_s=1e9), resume=True, logger=Recorder()).batches) == 11


@pytest.mark.slow
def test_a_run_with_two_workers_is_the_same_run_after_resuming(tmp_path: Path) -> None:
    assert_same_run(ToyTraining(folder=tmp_path, num_workers=2), tmp_path, stops=[3, 8])


def test_steps_not_yet_saved_at_a_crash_are_trained_again_the_same_way(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path / "whole", save_every_steps=4)
    whole = finish(training, resume=False, logger=Recorder())
    in_parts = training.with_(folder=tmp_path / "parts")
    crash(in_parts, after=7, resume=False, logger=Recorder())
    order = finish(in_parts, resume=True, logger=Recorder())
    assert order.batches == whole.batches[4:]
    assert order.losses == whole.losses[4:]
    assert differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")) == []


def test_a_finished_run_can_be_given_more_steps(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path, max_steps=6)
    finish(training, resume=False, logger=Recorder())
    order = finish(training.with_(max_steps=9), resume=True, logger=Recorder())
    assert len(order.batches) == 3
    assert checkpoint(tmp_path)["global_step"] == 9


# Runs in processes of their own, which can be killed.


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.pipeline.toy", str(folder), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == f"step {step}":
            return
    raise AssertionError(f"no step {step}: {process.communicate()[1]}")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    ToyTraining(folder=folder, max_steps=150, val_every_steps=5).fit()
    return folder


ARGUMENTS = ("--max-steps", "150", "--val-every-steps", "5")


@pytest.mark.slow
def test_a_signal_saves_the_step_ends_with_its_exit_code_and_the_rest_is_the_same_run(
    tmp_path: Path, whole_run: Path
) -> None:
    process = start(tmp_path, *ARGUMENTS, "--save-every-steps", "1000", "--tell")
    wait_for_step(process, 7)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert "RESUME=1" in errors
    step = checkpoint(tmp_path)["global_step"]
    assert 7 <= step < 150
    assert f"after step {step} of 150" in errors
    resumed = start(tmp_path, *ARGUMENTS, "--save-every-steps", "1000", "--resume")
    assert resumed.communicate(timeout=LIMIT_S) is not None
    assert resumed.returncode == 0
    assert differences(checkpoint(whole_run), checkpoint(tmp_path)) == []


@pytest.mark.slow
def test_a_run_killed_at_any_moment_can_be_resumed_and_is_the_same_run(
    tmp_path: Path, whole_run: Path
) -> None:
    moments = random.Random(3)
    killed = 0
    for _ in range(4):
        process = start(tmp_path, *ARGUMENTS, "--tell", "--resume")
        assert process.stdout is not None
        for _ in range(moments.randint(1, 20)):  # then training goes on, most of the time saving
            line = process.stdout.readline()
            assert line.startswith("step"), process.communicate()[1]
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed == 4
    assert checkpoint(tmp_path)["global_step"] < 150
    resumed = start(tmp_path, *ARGUMENTS, "--resume")
    _, errors = resumed.communicate(timeout=LIMIT_S)
    assert resumed.returncode == 0, errors
    assert differences(checkpoint(whole_run), checkpoint(tmp_path)) == []


@pytest.mark.slow
def test_two_processes_are_the_same_run_after_resuming(tmp_path: Path) -> None:
    arguments = ("--devices", "2", "--max-steps", "8", "--val-every-steps", "3")
    for name, runs in {"whole": [()], "parts": [("--crash-after", "4"), ("--resume",)]}.items():
        for extra in runs:
            process = start(tmp_path / name, *arguments, *extra)
            _, errors = process.communicate(timeout=LIMIT_S)
            assert (process.returncode == 0) == (extra[:1] != ("--crash-after",)), errors
    assert differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")) == []


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "accumulate"), [("2", "4"), ("8", "1")])
def test_two_processes_have_the_gradient_of_one_batch_of_all_their_rows(
    batch_size: str, accumulate: str, tmp_path: Path
) -> None:
    ToyTraining(folder=tmp_path / "one", batch_size=16, max_steps=1, uneven=True).fit()
    arguments = ("--devices", "2", "--max-steps", "1", "--uneven", "--batch-size", batch_size)
    process = start(tmp_path / "two", *arguments, "--accumulate", accumulate)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    # After one step these are the clipped gradients, times a constant.
    one, two = (
        [state["exp_avg"] for state in checkpoint(tmp_path / name)["optimizer_states"][0]["state"].values()]
        for name in ("one", "two")
    )
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-8)
