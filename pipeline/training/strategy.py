"""Fully sharded data-parallel training: weights, gradients and optimizer states are sharded over processes.

Lightning's `ModelParallelStrategy` starts and connects the processes. The model is sharded in `setup`, not in
`configure_model`, so that neither the LightningModule nor callbacks depend on the strategy. Checkpoints are
written by `torch.distributed.checkpoint` while training goes on, but atomically and with hashes, and read
without running code.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer

from modules.sharding import shard, sharded_like
from pipeline.errors import CheckpointError, RunInterrupted
from pipeline.runs.checkpoint_files import AtomicCheckpointIO
from pipeline.runs.shard_folders import SHARDS, folder_named_by, next_folder, verify
from pipeline.runs.shards import Place, put_back, read_shards, take_out
from pipeline.training.background import SavesInBackground
from pipeline.training.saves import Saves


class ShardedStrategy(ModelParallelStrategy, SavesInBackground):
    """FSDP2 over all processes, or (`by_node`) within each machine, with a replica on each machine."""

    def __init__(self, *, by_node: bool = False) -> None:
        super().__init__()
        self._by_node = by_node
        self._files = AtomicCheckpointIO()
        self._saves = Saves()

    def setup_environment(self) -> None:
        """Connect the processes, and define over which of them weights are sharded."""
        self._setup_distributed()
        nodes, each = (self.num_nodes, self.num_processes) if self._by_node else (1, self.world_size)
        names = ("replicas", "shards")
        mesh = init_device_mesh(self.root_device.type, (nodes, each), mesh_dim_names=names)
        self._device_mesh = mesh if self._by_node else mesh["shards"]

    def setup(self, trainer: L.Trainer) -> None:
        """Shard the model, then build the optimizer for the shards."""
        assert self.accelerator is not None
        assert self.lightning_module is not None
        self.accelerator.setup(trainer)
        shard(self.lightning_module, self.device_mesh, methods=("training_step", "validation_step"))
        self.model_to_device()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
            _optimizers_to_device(self.optimizers, self.root_device)
        self.setup_precision_plugin()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning restores optimizers; it does so from shards, as with other strategies."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the weights, as shards."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state of an optimizer, as shards."""
        return Strategy.optimizer_state(self, optimizer)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load shards into the model."""
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load shards into the optimizers."""
        Strategy.load_optimizer_state_dict(self, checkpoint)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Copy a checkpoint, and write it while training goes on; a collective operation.

        Waits for the previous save to the same path.

        Raises:
            CheckpointError: in all processes, if the previous one could not be written.
        """
        path = Path(filepath)
        self._saves.finish(path)
        folder = self.broadcast(next_folder(path) if self.is_global_zero else path)
        self._saves.start(checkpoint, path, folder)

    @property
    def has_failed_save(self) -> bool:
        """Whether a pending save has failed in this process."""
        return self._saves.has_failed

    def finish_saves(self) -> None:
        """Wait for pending saves; a collective operation.

        Raises:
            CheckpointError: in all processes, if one of them could not be written.
        """
        self._saves.finish()

    def on_exception(self, exception: BaseException) -> None:
        """Wait for pending saves if an error ends training, and report those that fail too.

        A second signal must not wait here; the program ends when they are complete.
        """
        if isinstance(exception, RunInterrupted):
            return
        try:
            self._saves.finish()
        except (CheckpointError, RuntimeError) as error:
            if error is not exception:
                logging.getLogger(__name__).warning("a checkpoint was not saved: %s", error)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, as shards, whichever strategy and number of processes wrote it.

        A collective operation.

        Raises:
            CheckpointError: with the file that is missing, damaged or does not fit the model.
        """
        path = Path(checkpoint_path)
        checkpoint = self._files.load_file(path)
        if SHARDS not in checkpoint:
            _, tensors = take_out(checkpoint, lambda tensor: True)
            put_back(checkpoint, self._sharded(tensors))
            return checkpoint
        table = checkpoint.pop(SHARDS)
        folder = self._verified(path, table)
        places: list[Place] = [tuple(place) for place in table["tensors"]]
        weights = {place: weight for place in places if (weight := self._weight_of(place)) is not None}
        templates = {place: torch.empty_like(weight.detach()) for place, weight in weights.items()}
        put_back(checkpoint, read_shards(folder, places, templates))
        return checkpoint

    def _sharded(self, tensors: Mapping[Place, Tensor]) -> dict[Place, Tensor]:
        """Shard those of `tensors` that are weights, or optimizer states of the same shape."""
        weights = {place: self._weight_of(place) for place in tensors}
        return {
            place: sharded_like(tensors[place], weight)
            for place, weight in weights.items()
            if weight is not None and weight.shape == tensors[place].shape
        }

    def _weight_of(self, place: Place) -> Tensor | None:
        """Return the parameter whose value or optimizer state is at this position of a checkpoint."""
        assert self.lightning_module is not None
        match place:
            case ("state_dict" | "current_model_state", name):
                return dict(self.lightning_module.named_parameters(remove_duplicate=False)).get(str(name))
            case ("optimizer_states", int(number), "state", int(index), _):
                groups = self.optimizers[number].param_groups
                weights: list[Tensor] = [weight for group in groups for weight in group["params"]]
                return weights[index]
        return None

    def _verified(self, path: Path, table: Mapping[str, Any]) -> Path:
        """Return the folder of a checkpoint; each process verifies some of its files."""
        sums = dict(sorted(table["sha256"].items())[self.global_rank :: self.world_size])
        try:
            verify(folder_named_by(path, table), sums)
            error = None
        except CheckpointError as found:
            error = found
        for each in self._from_all(error):
            if each is not None:
                raise each
        return folder_named_by(path, table)

    def _from_all(self, value: Any) -> list[Any]:
        """Return the `value` of each process, in order of rank."""
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values
