"""An exponential moving average of the weights."""

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from modules.sharding import local, release


class EMA(Callback):
    """Keep an exponential moving average of the weights, for validations and in a checkpoint's `state_dict`.

    Lightning's `EMAWeightAveraging` does the same one parameter at a time, and not for sharded weights; this
    averages all of them in one call, each process its shards. Checkpoints are in Lightning's format. The
    average starts from the weights after the first step; when training ends, it becomes the weights of the
    model.

    Args:
        decay: the weight of the old average at each optimizer step, in [0, 1).

    Source: Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging"; the exponential
    form is that of Tarvainen and Valpola 2017, "Mean teachers are better role models", section 2.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}, and has to be in [0, 1]")
        self._decay = decay
        self._averages: dict[nn.Parameter, Tensor] = {}
        self._n_averaged = 0
        self._latest_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Follow the weights to their device: some checkpoints are read before these are moved."""
        self._averages = {weight: average.to(weight.device) for weight, average in self._averages.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average the weights after an optimizer step."""
        if trainer.global_step <= self._latest_step:
            return
        if self._averages:
            averages, weights = self._averages.values(), self._averages.keys()
            torch._foreach_lerp_(_locals(averages), _locals(weights), 1 - self._decay)
        else:
            self._averages = {weight: weight.detach().clone() for weight in pl_module.parameters()}
        self._n_averaged += 1
        self._latest_step = trainer.global_step

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate with the average."""
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train on with the weights."""
        self._swap(pl_module)

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the model."""
        for weight, average in self._averages.items():
            local(weight).copy_(local(average))

    def state_dict(self) -> dict[str, Any]:
        """The step that was averaged last."""
        return {"latest_update_step": self._latest_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after that step."""
        self._latest_step = state_dict["latest_update_step"]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the average into `state_dict`, and what is trained into `current_model_state`."""
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        averages = {
            name: self._averages[weight]
            for name, weight in pl_module.named_parameters(remove_duplicate=False)
            if weight in self._averages
        }
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **averages}
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self._n_averaged)}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up both; Lightning has loaded the average into the model."""
        self._n_averaged = int(checkpoint["averaging_state"]["n_averaged"])
        if self._n_averaged:
            self._averages = {
                weight: checkpoint["state_dict"][name].detach().clone()
                for name, weight in pl_module.named_parameters()
            }
        pl_module.load_state_dict(checkpoint["current_model_state"])

    @torch.no_grad()
    def _swap(self, pl_module: L.LightningModule) -> None:
        release(pl_module)  # what was gathered is of the weights that go
        for weight, average in self._averages.items():
            trained = local(weight).clone()
            local(weight).copy_(local(average))
            local(average).copy_(trained)


def _locals(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [local(tensor) for tensor in tensors]
