"""Build the Lightning Trainer from the options."""

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline import processes
from pipeline.machine.devices import choose_precision, devices_and_nodes, uses_gpu
from pipeline.machine.options import Precision, TrainerOptions

if TYPE_CHECKING:
    import lightning as L
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.strategies import Strategy


#: Precision -> Lightning's name for it; weights stay in fp32, and matrix products use the named precision.
PRECISIONS: dict[Precision, str] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def build_trainer(
    options: TrainerOptions, *, callbacks: Sequence["Callback"] = (), logger: "Logger | bool" = False
) -> "L.Trainer":
    """Build a Lightning Trainer that counts steps, writes checkpoints atomically, and prints nothing itself.

    Raises:
        ConfigError: if this machine does not have the requested devices, or does not support the precision.
    """
    import lightning as L
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    from pipeline.runs.checkpoint_files import AtomicCheckpointIO
    from pipeline.training.launch import OwnProcesses

    quieten_lightning()
    devices, num_nodes = devices_and_nodes(options)
    # Explicit, since Lightning would expect srun to start the processes wherever it finds Slurm's variables.
    launcher = TorchElasticEnvironment() if processes.count_launched() > 1 else OwnProcesses()
    return L.Trainer(
        accelerator="gpu" if uses_gpu(options) else "cpu",
        devices=devices,
        num_nodes=num_nodes,
        strategy=_strategy(options),
        precision=PRECISIONS[choose_precision(options)],  # type: ignore[arg-type]
        max_steps=options.n_steps,
        max_epochs=-1,
        val_check_interval=options.val_interval_steps * options.accumulate,
        check_val_every_n_epoch=None,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.gradient_clip,
        log_every_n_steps=options.log_every_steps,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO(), launcher],
        logger=logger,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _strategy(options: TrainerOptions) -> "Strategy | str":
    """Return Lightning's strategy for the devices."""
    if not options.is_sharded:
        return options.strategy
    from pipeline.training.strategy import ShardedStrategy

    return ShardedStrategy(by_node=options.strategy == "hsdp")


def quieten_lightning() -> None:
    """Silence Lightning's messages about hardware, its advertisements, and its advice to use `srun`."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # When a process dies, Lightning kills the run, and reports that only through this logger.
    watch = logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script")
    watch.setLevel(logging.INFO)
    watch.addFilter(_as_warning)
    warnings.filterwarnings("ignore", message=r"The `srun` command is available")
    # A resumed run may have another time budget, or none.
    warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`, callbacks")
    # Lightning 2.6.6 with torch 2.13
    warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\)", category=FutureWarning)


def _as_warning(record: logging.LogRecord) -> bool:
    record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True
