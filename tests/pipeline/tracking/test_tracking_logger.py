"""Lightning's `self.log` arrives at the number of optimizer steps done."""

from pathlib import Path

import lightning
import pytest
import torch

from pipeline.tracking import Run
from pipeline.tracking.logger import TrackingLogger

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Recorder(Run):
    """A run that keeps what it is told."""

    def __init__(self) -> None:
        self.points: list[tuple[str, int]] = []

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.points += [(key, step) for key in values if key != "epoch"]


class Line(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"secret": "x"})
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        self.log("val/loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.slow
def test_points_stand_at_the_number_of_optimizer_steps_done(tmp_path: Path) -> None:
    run = Recorder()
    logger = TrackingLogger(run)
    trainer = lightning.Trainer(
        max_steps=6,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
        logger=logger,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    logger.steps_done = lambda: trainer.global_step
    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(8, 1)), batch_size=2)
    trainer.fit(Line(), rows, rows)
    assert [step for key, step in run.points if key == "train/loss"] == [1, 2, 3, 4, 5, 6]
    assert [step for key, step in run.points if key == "val/loss"] == [3, 6]
    assert {key for key, _ in run.points} == {"train/loss", "val/loss"}
    assert list(tmp_path.iterdir()) == []
