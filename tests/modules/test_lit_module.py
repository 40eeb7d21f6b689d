from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics import MetricCollection

from modules.lit_module import LitModule
from tests.pipeline.toy import (
    MeanLoss,
    Recorder,
    ToyModel,
    ToyObjective,
    ToyOptimizer,
    ToySchedule,
    ToyTraining,
    checkpoint,
)

pytestmark = pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning")


def test_training_equals_a_plain_loop_of_torch(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path, ema_decay=None, max_steps=6, log_every_steps=2)
    model: nn.Module = training.module().model
    model.layer[2].p = 0.0
    optimizer = ToyOptimizer().build(model)
    batches = iter(training.data().train_dataloader())
    losses, norms = [], []
    for step in range(6):
        for group, lr in zip(optimizer.param_groups, (0.02, 0.01), strict=True):
            group["lr"] = lr * ToySchedule().factor(step, 6)
        nats, n_tokens = ToyObjective().loss(model, next(batches))
        optimizer.zero_grad()
        (nats / n_tokens).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        losses.append((nats.item(), n_tokens))

    recorder = Recorder()
    module = training.module()
    module.model.layer[2].p = 0.0
    trainer = training.trainer(recorder)
    trainer.fit(module, datamodule=training.data())
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(module.model.state_dict()[name], weight)
    pairs = [losses[i : i + 2] for i in (0, 2, 4)]
    expected = [sum(nats for nats, _ in pair) / sum(n for _, n in pair) for pair in pairs]
    assert list(recorder.of("train/loss")) == [2, 4, 6]
    assert list(recorder.of("train/loss").values()) == pytest.approx(expected, rel=1e-6)
    assert list(recorder.of("grad_norm").values()) == pytest.approx(norms[1::2], rel=1e-5)
    assert recorder.of("lr_embeddings")[4] == 0.02 * ToySchedule().factor(3, 6)
    assert recorder.of("lr_matrices")[4] == 0.01 * ToySchedule().factor(3, 6)


class Gradients(Callback):
    """Keeps the clipped gradients of each step."""

    def __init__(self) -> None:
        self.steps: list[list[Tensor]] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        (optimizer,) = trainer.optimizers
        optimizer.register_step_post_hook(lambda *_: self._keep(module))

    def _keep(self, module: nn.Module) -> None:
        self.steps.append([p.grad.clone() for p in module.parameters() if p.grad is not None])


def gradients_of(training: ToyTraining) -> tuple[list[list[Tensor]], Recorder]:
    recorder, kept = Recorder(), Gradients()
    training.with_(extra=(kept,), uneven=True).fit(logger=recorder)
    return kept.steps, recorder


@pytest.mark.parametrize("clip", [None, 0.05])
def test_accumulated_batches_give_the_gradient_of_one_large_batch(tmp_path: Path, clip: float | None) -> None:
    found = [
        gradients_of(
            ToyTraining(
                folder=tmp_path / f"{batch_size}",
                batch_size=batch_size,
                accumulate=accumulate,
                max_steps=3,
                log_every_steps=1,
                clip=clip,
            )
        )
        for batch_size, accumulate in ((16, 1), (4, 4), (1, 16))
    ]
    (large, logged), *rest = found
    assert len(large) == 3
    for gradients, recorder in rest:
        torch.testing.assert_close(gradients, large, rtol=1e-4, atol=1e-7)
        for name in ("train/loss", "train/grad_norm"):
            assert recorder.of(name) == pytest.approx(logged.of(name), rel=1e-5)


def test_a_step_may_begin_with_a_pass_without_labels(tmp_path: Path) -> None:
    class NoneAtFirst(ToyTraining):
        def data(self) -> Any:
            data = super().data()
            order = data.train_dataloader()._batches.keys(0)[:4]
            data.train_rows.segment_ids[order % self.n_rows] = 0
            return data

    large, small = (
        gradients_of(NoneAtFirst(folder=tmp_path / name, batch_size=size, accumulate=passes, max_steps=2))[0]
        for name, size, passes in (("a", 8, 1), ("b", 4, 2))
    )
    assert len(large) == 2
    torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-7)


def test_no_gradient_of_an_earlier_step_exists_during_a_forward_pass(tmp_path: Path) -> None:
    counts: list[int] = []

    class Counting(ToyObjective):
        def loss(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
            if model.training:
                counts.append(sum(p.grad is not None for p in model.parameters()))
            return super().loss(model, batch)

    ToyTraining(folder=tmp_path, objective=Counting(), accumulate=2, max_steps=3).fit()
    assert counts[0::2] == [0, 0, 0]
    assert all(counts[1::2]), "the first pass of a step leaves gradients for the second"


def test_a_loss_is_logged_as_the_mean_over_tokens_and_not_over_batches(tmp_path: Path) -> None:
    class FewLabels(ToyObjective):
        """Every second batch has one label, with a loss of 8 nats; the others have 32 with 1 nat each."""

        def __init__(self) -> None:
            self.calls = 0

        def loss(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
            self.calls += 1
            nats, n_tokens = (8.0, 1) if self.calls % 2 else (32.0, 32)
            return model.head.bias.sum() * 0.0 + nats, n_tokens

    recorder = Recorder()
    ToyTraining(
        folder=tmp_path, objective=FewLabels(), max_steps=2, log_every_steps=2, val_every_steps=9
    ).fit(logger=recorder)
    assert recorder.of("train/loss")[2] == pytest.approx(40 / 33)


def test_validation_values_stand_at_the_optimizer_step_they_belong_to(tmp_path: Path) -> None:
    recorder = Recorder()
    ToyTraining(folder=tmp_path, accumulate=2, val_every_steps=4, max_steps=8).fit(logger=recorder)
    assert list(recorder.of("val/loss")) == [4, 8]
    assert {name for _, name, _ in recorder.points if name in ("step", "val/step")} == set()


def test_a_batch_without_labels_has_a_loss_of_zero(tmp_path: Path) -> None:
    class NoLabels(ToyObjective):
        def loss(self, model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
            return model.head.bias.sum() * 0.0, 0

        def update(self, metrics: MetricCollection, model: Any, batch: Mapping[str, Tensor]) -> None:
            metrics.update(torch.tensor(1.0), 1)

    recorder = Recorder()
    ToyTraining(folder=tmp_path, objective=NoLabels(), max_steps=3).fit(logger=recorder)
    assert recorder.of("train/loss")[3] == 0.0


def test_checkpoints_hold_plain_containers_and_tensors_only(tmp_path: Path) -> None:
    ToyTraining(folder=tmp_path, max_steps=2, patience=3, time_budget_s=100.0).fit()
    loaded = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {"state_dict", "optimizer_states", "callbacks", "PretrainDataModule"} <= loaded.keys()
    assert checkpoint(tmp_path)["train_interval"].shape == (0, 2)


def test_an_objective_without_a_loss_among_its_metrics_is_refused() -> None:
    class Nameless(ToyObjective):
        def metrics(self) -> MetricCollection:
            return MetricCollection({"nats": MeanLoss()})

    with pytest.raises(ValueError, match="objective has the metrics nats; expected a metric 'loss'"):
        LitModule(ToyModel(), Nameless(), optimizer=ToyOptimizer(), schedule=ToySchedule(), max_steps=3)


def test_training_for_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="max_steps is 0"):
        LitModule(ToyModel(), ToyObjective(), optimizer=ToyOptimizer(), schedule=ToySchedule(), max_steps=0)


def test_forward_gives_the_models_logits(tmp_path: Path) -> None:
    training = ToyTraining(folder=tmp_path)
    module = training.module().eval()
    batch = next(iter(training.data().train_dataloader()))
    assert torch.equal(module(batch), module.model(batch))
