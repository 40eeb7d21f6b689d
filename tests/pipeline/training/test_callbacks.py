import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from pipeline import signals
from pipeline.errors import RunError
from pipeline.training.callbacks.flops import count_training_flops
from pipeline.training.callbacks.preemption import RunInterrupted
from pipeline.training.callbacks.seeding import batch_seed
from tests.pipeline.toy import (
    BatchOrder,
    CrashError,
    Recorder,
    StopAfter,
    T,
    ToyModel,
    ToyObjective,
    ToyTraining,
    V,
    checkpoint,
)

pytestmark = pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning")


class AtBatch(Callback):
    """Does something after a batch."""

    def __init__(self, batch: int, action: Any) -> None:
        self.batch, self.action = batch, action

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            self.action(module)


class InValidation(Callback):
    """Does something in the first validation."""

    def __init__(self, action: Any) -> None:
        self.action = action

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self.action()


# Seeds


def test_seeds_of_neighbouring_batches_ranks_and_runs_differ() -> None:
    seeds = {batch_seed(seed, rank, batch) for seed in range(5) for rank in range(4) for batch in range(50)}
    assert len(seeds) == 5 * 4 * 50
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_seed_of_a_run_decides_about_dropout(tmp_path: Path) -> None:
    runs = []
    for name, disturb in (("a", 0), ("b", 1)):
        order = BatchOrder()
        noise = AtBatch(
            3, lambda module, n=disturb: torch.rand(n)
        )  # what else uses the generator does not matter
        ToyTraining(folder=tmp_path / name, extra=(order, noise)).fit()
        runs.append(order.losses)
    assert runs[0] == runs[1]


# What is not finite


class BreaksAt(ToyObjective):
    """At one forward pass the loss becomes infinite, or the gradient alone becomes not a number."""

    def __init__(self, call: int, *, gradient_only: bool = False) -> None:
        self.call, self.gradient_only, self.calls = call, gradient_only, 0

    def loss(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        nats, n_tokens = super().loss(model, batch)
        if model.training:
            self.calls += 1
            if self.calls == self.call:
                if self.gradient_only:
                    nats.register_hook(lambda gradient: gradient * torch.nan)
                else:
                    nats = nats * torch.inf
        return nats, n_tokens


def test_a_loss_that_is_not_finite_stops_the_run_names_the_step_and_is_not_saved(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path, save_every_steps=2, log_every_steps=100, objective=BreaksAt(8))
    with pytest.raises(RunError, match="loss is not finite at step 8"):
        training.fit()
    state = checkpoint(tmp_path)
    assert state["global_step"] == 6
    assert all(weight.isfinite().all() for weight in state["state_dict"].values())


def test_the_bad_step_is_named_under_accumulation_too(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path, accumulate=2, log_every_steps=5, save_every_steps=99)
    with pytest.raises(RunError, match="loss is not finite at step 4"):
        training.with_(objective=BreaksAt(7), val_every_steps=99).fit()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    def spoil(module: Any) -> None:
        with torch.no_grad():
            module.model.head.bias[0] = torch.nan

    training = ToyTraining(folder=tmp_path, save_every_steps=2, extra=(AtBatch(3, spoil),))
    with pytest.raises(RunError, match="weights are not finite"):
        training.fit()
    assert checkpoint(tmp_path)["global_step"] == 2


def test_gradients_that_are_not_finite_stop_the_run_before_the_next_save(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path, objective=BreaksAt(4, gradient_only=True), log_every_steps=100)
    with pytest.raises(RunError, match="not finite"):
        training.fit()
    assert checkpoint(tmp_path)["global_step"] == 3


# Limits


def test_the_last_step_is_validated_wherever_the_interval_falls(tmp_path: Path) -> None:
    recorder = Recorder()
    ToyTraining(folder=tmp_path, max_steps=7, val_every_steps=3).fit(logger=recorder)
    assert list(recorder.of("val/loss")) == [3, 6, 7]


def test_a_last_step_on_the_interval_is_validated_once(tmp_path: Path) -> None:
    recorder = Recorder()
    ToyTraining(folder=tmp_path, max_steps=6, val_every_steps=3).fit(logger=recorder)
    assert [step for step, name, _ in recorder.points if name == "val/loss"] == [3, 6]


def test_a_spent_time_budget_ends_the_run_with_a_validation_and_a_checkpoint(tmp_path: Path) -> None:
    recorder = Recorder()
    training = ToyTraining(folder=tmp_path, max_steps=10**6, val_every_steps=10**5, save_every_steps=10**5)
    trainer = training.with_(time_budget_s=0.2).fit(logger=recorder)
    assert 0 < trainer.global_step < 10**6
    assert list(recorder.of("val/loss")) == [trainer.global_step]
    assert checkpoint(tmp_path)["global_step"] == trainer.global_step


def test_the_time_budget_counts_on_after_resuming_and_leaves_the_schedule_as_it_is(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path, max_steps=10**6, val_every_steps=10**5, time_budget_s=0.2)
    first = training.fit().global_step
    recorder = Recorder()
    again = training.with_(log_every_steps=1).fit(resume=True, logger=recorder)
    assert again.global_step <= first + 1
    for step, rate in recorder.of("lr_matrices").items():
        assert rate == 0.01 * (1 - 0.9 * (step - 1) / 10**6)


# Signals


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
)
def test_a_signal_ends_the_run_after_the_optimizer_step_with_its_exit_code(
    tmp_path: Path, number: signal.Signals, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    send = AtBatch(6, lambda module: os.kill(os.getpid(), number))  # the first of two passes of step 4
    training = ToyTraining(folder=tmp_path, accumulate=2, save_every_steps=99, extra=(send,))
    with pytest.raises(
        RunInterrupted, match=r"after step 4 of 12, which was saved\nhint: .*RESUME=1"
    ) as stopped:
        training.fit()
    assert stopped.value.exit_code == code
    assert checkpoint(tmp_path)["global_step"] == 4
    assert "again to stop at once" in capfd.readouterr().err


def test_a_signal_within_a_validation_lets_it_finish(tmp_path: Path) -> None:
    recorder = Recorder()
    send = InValidation(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(RunInterrupted):
        ToyTraining(folder=tmp_path, save_every_steps=99, extra=(send,)).fit(logger=recorder)
    assert list(recorder.of("val/loss")) == [5]
    assert checkpoint(tmp_path)["callbacks"]["Checkpoints"]["best_step"] == 5


def test_a_second_signal_stops_at_once_and_leaves_the_last_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "SAME_REQUEST_S", -1.0)

    def twice(module: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    order = BatchOrder()
    with pytest.raises(RunInterrupted, match="at once"):
        ToyTraining(folder=tmp_path, accumulate=2, extra=(AtBatch(6, twice), order)).fit()
    assert len(order.batches) == 6
    assert checkpoint(tmp_path)["global_step"] == 3


@pytest.mark.parametrize("echo", [signal.SIGTERM, signal.SIGHUP])
def test_an_echo_of_a_signal_does_not_keep_the_step_from_being_saved(
    tmp_path: Path, echo: signal.Signals
) -> None:
    """A closed terminal tells a process twice, and so do wrappers that pass on what it has heard itself."""

    def twice(module: Any) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), echo)

    with pytest.raises(RunInterrupted, match=r"SIGHUP after step 4 of 12, which was saved") as stopped:
        ToyTraining(folder=tmp_path, save_every_steps=99, extra=(AtBatch(3, twice),)).fit()
    assert stopped.value.exit_code == 129
    assert checkpoint(tmp_path)["global_step"] == 4


def test_a_signal_is_answered_where_nothing_can_be_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`tee` has died of the same Ctrl-C, so that standard error is a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    kept = os.dup(2)
    os.dup2(writer, 2)
    try:
        send = AtBatch(3, lambda module: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(RunInterrupted, match="after step 4"):
            ToyTraining(folder=tmp_path, save_every_steps=99, extra=(send,)).fit()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)
    assert checkpoint(tmp_path)["global_step"] == 4


def test_a_signal_before_the_first_step_is_not_forgotten(tmp_path: Path) -> None:
    class Early(Callback):
        def on_fit_start(self, trainer: Any, module: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    order = BatchOrder()
    with pytest.raises(RunInterrupted, match="after step 0"):
        ToyTraining(folder=tmp_path, extra=(Early(), order)).fit()
    assert order.batches == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("fails", [False, True])
def test_signals_are_given_back_after_a_run_that_ends_or_fails(
    tmp_path: Path, number: signal.Signals, fails: bool
) -> None:
    received = []
    previous = signal.signal(number, lambda number, frame: received.append(number))
    try:
        training = ToyTraining(folder=tmp_path, max_steps=3)
        if fails:
            with pytest.raises(CrashError):
                training.with_(extra=(StopAfter(1),)).fit()
        else:
            training.fit()
        signal.raise_signal(number)
    finally:
        signal.signal(number, previous)
    assert received == [number]


# The average of the weights


def test_the_average_is_the_one_computed_one_weight_at_a_time(tmp_path: Path) -> None:
    reference: list[AveragedModel] = []

    class Follow(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            if not reference:
                reference.append(AveragedModel(module.model, avg_fn=get_ema_avg_fn(0.8)))
            reference[0].update_parameters(module.model)

    trainer = ToyTraining(folder=tmp_path, ema_decay=0.8, extra=(Follow(),)).fit()
    saved = checkpoint(tmp_path)["state_dict"]
    for name, weight in reference[0].module.state_dict().items():
        torch.testing.assert_close(saved[f"model.{name}"], weight)
        torch.testing.assert_close(trainer.lightning_module.state_dict()[f"model.{name}"], weight)


def test_validation_uses_the_average(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = ToyTraining(folder=tmp_path, ema_decay=0.8, max_steps=4).fit(logger=recorder)
    average = trainer.lightning_module
    average.eval()
    batches = list(ToyTraining(folder=tmp_path).data().val_dataloader())
    sums = [ToyObjective().loss(average.model, batch) for batch in batches]
    expected = sum(nats.item() for nats, _ in sums) / sum(n for _, n in sums)
    assert recorder.of("val/loss")[4] == pytest.approx(expected, rel=1e-6)


# Measurements


def test_tokens_and_epochs_are_counted_without_padding_on_one_axis(tmp_path: Path) -> None:
    recorder = Recorder()
    ToyTraining(folder=tmp_path, max_steps=10, batch_size=4, accumulate=2, log_every_steps=5).fit(
        logger=recorder
    )
    # 10 steps of 8 rows are 4 epochs of 20 rows; one position of row 1 is padding in the input.
    assert recorder.of("epoch") == {5: 2.0, 10: 4.0}
    assert recorder.of("tokens_seen") == {5: 2 * (20 * T - 1), 10: 4 * (20 * T - 1)}
    walls = recorder.of("wall_s")
    assert 0 < walls[5] < walls[10]
    assert all(rate > 0 for rate in recorder.of("tokens_per_second").values())
    assert recorder.of("mfu") == {}


def test_the_work_of_a_step_is_three_times_its_matrix_products(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path, max_steps=1)
    module = training.fit().lightning_module
    module.trainer = training.trainer()
    batch = next(iter(training.data().train_dataloader()))
    width = ToyModel().head.in_features
    forward = 2 * 4 * T * (width * width + width * V)
    assert count_training_flops(module, batch) == 3 * forward
