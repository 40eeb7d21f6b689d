"""Seed random numbers so that a resumed run draws the same ones."""

import hashlib
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback


class StepSeed(Callback):
    """Seeds torch for each batch from (seed, rank, batch number), so that dropout needs no saved state.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the CPU and the device of this process; neither waits for the device."""
        seed = batch_seed(self._seed, trainer.global_rank, trainer.fit_loop.total_batch_idx)
        # torch.manual_seed would queue one more call for each absent kind of device at each step.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif pl_module.device.type == "mps":
            torch.mps.manual_seed(seed)


def batch_seed(seed: int, rank: int, batch: int) -> int:
    """Return a 63-bit seed that is independent of those of neighbouring batches."""
    digest = hashlib.blake2b(f"{seed},{rank},{batch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
