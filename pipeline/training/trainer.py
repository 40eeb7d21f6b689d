"""The options of training, and the Lightning Trainer made from them."""

import logging
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import lightning as L
    import torch
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Precision = Literal["fp32", "bf16", "fp16"]

#: Our names for precision -> Lightning's: weights stay in fp32, products are made in what the name says.
PRECISIONS: dict[Precision, str] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How long, on what, and how to train; one step is one update of the weights.

    Args:
        max_steps: updates of the weights; size=tiny does those of the yaml files in minutes on two CPU cores.
            null: as many as the rows ask for, in fine-tuning (`pipeline.training.budget`).
        max_epochs: how often to see each row; given, it decides about max_steps.
        batch_size: rows on one device in one forward pass.
        accumulate: forward passes a step; 4 of 4 rows have the gradient of one of 16.
        precision: auto takes bf16 where the machine is much faster in it, else fp32.
        compile: run the model through `torch.compile`.
        gradient_clip: the largest norm of a gradient; null: no limit.
        ema_decay: keep an exponential moving average of the weights, and use it.
        patience: validations without a better result (loss, or the task's metric) before training stops.
        plateau: validations without a better result before the learning rate decays and training ends.
        time_budget_s: seconds of training, in all parts of a resumed run together.
        val_every_steps: null: five times a run.
        val_rows: validate on the first so many rows; null: on all.
        score_rows: fine-tuned models answer the first so many rows at a validation; null: all.
        curriculum: share of the steps in which fine-tuning goes from the shortest rows to all.
        checkpoint_every_steps: null: at each validation.
        devices: how many; auto: all GPUs, or one CPU process.
        strategy: how several devices work together; auto takes ddp, data-parallel training.
        num_workers: processes that prepare batches; 0: the training process does.
    """

    max_steps: Count | None = None
    max_epochs: Annotated[float, Field(gt=0)] | None = None
    batch_size: Count = 16
    accumulate: Count = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    gradient_clip: Annotated[float, Field(gt=0)] | None = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    patience: Count | None = None
    plateau: Count | None = None
    time_budget_s: Seconds | None = None
    val_every_steps: Count | None = None
    val_rows: Count | None = None
    score_rows: Count | None = 400
    curriculum: Annotated[float, Field(ge=0, le=1)] = 0.0
    checkpoint_every_steps: Count | None = None
    log_every_steps: Count = 10
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Count | Literal["auto"] = "auto"
    strategy: Literal["auto", "ddp"] = "auto"
    num_workers: Annotated[int, Field(ge=0)] = 0

    def for_rows(self, n_rows: int) -> "TrainerOptions":
        """The options with `max_steps` as `max_epochs` over so many rows asks for, if it is given."""
        if self.max_epochs is None:
            return self
        rows_a_step = self.batch_size * self.accumulate * count_devices(self)
        return replace(self, max_steps=math.ceil(self.max_epochs * n_rows / rows_a_step), max_epochs=None)

    @property
    def n_steps(self) -> int:
        """`max_steps`, where it is known.

        Raises:
            ConfigError: nothing says how long to train.
        """
        if self.max_steps is None:
            raise ConfigError(
                "trainer.max_steps is null", "a number of steps", "give trainer.max_steps=1000 or such"
            )
        return self.max_steps

    @property
    def answer_batch_size(self) -> int:
        """Rows answered at a time: without gradients, four times as many as in training find room."""
        return 4 * self.batch_size

    @property
    def curriculum_batches(self) -> int:
        """Forward passes of one device before all rows are drawn from alike."""
        return int(self.curriculum * self.n_steps) * self.accumulate

    @property
    def val_interval_steps(self) -> int:
        """Steps between two validations."""
        return min(self.n_steps, self.val_every_steps or max(1, self.n_steps // 5))

    @property
    def checkpoint_interval_steps(self) -> int:
        """Steps between two checkpoints."""
        return self.checkpoint_every_steps or self.val_interval_steps


def build_trainer(
    options: TrainerOptions, *, callbacks: Sequence["Callback"] = (), logger: "Logger | bool" = False
) -> "L.Trainer":
    """A Lightning Trainer that counts steps, writes checkpoints atomically, and prints nothing of its own.

    Raises:
        ConfigError: a device or a precision that this machine does not have.
    """
    import lightning as L

    from pipeline.training.checkpoint import AtomicCheckpointIO

    quieten_lightning()
    return L.Trainer(
        accelerator="gpu" if uses_gpu(options) else "cpu",
        devices=count_devices(options),
        strategy=options.strategy,
        precision=PRECISIONS[choose_precision(options)],  # type: ignore[arg-type]
        max_steps=options.n_steps,
        max_epochs=-1,
        val_check_interval=options.val_interval_steps * options.accumulate,
        check_val_every_n_epoch=None,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.gradient_clip,
        log_every_n_steps=options.log_every_steps,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        logger=logger,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def quieten_lightning() -> None:
    """Lightning tells which hardware it found, advertises, and advises `srun` where Slurm is there.

    Our stages say the former themselves.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r"The `srun` command is available")
    # A resumed run may have another time budget, or none.
    warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`, callbacks")
    # lightning 2.6.6 with torch 2.13
    warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\)", category=FutureWarning)


def uses_gpu(options: TrainerOptions) -> bool:
    """Whether training runs on a GPU.

    Raises:
        ConfigError: a GPU is asked for and none is there.
    """
    import torch

    if options.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError(
            "trainer.accelerator=gpu: no GPU that PyTorch can use",
            "a CUDA device and a CUDA build of PyTorch",
            "use trainer.accelerator=cpu, or check nvidia-smi and torch.version.cuda",
        )
    return options.accelerator != "cpu" and torch.cuda.is_available()


def check_device(options: TrainerOptions) -> None:
    """Refuse what this machine does not have, before anything is read.

    Raises:
        ConfigError: no GPU, fewer of them, or none for fp16.
    """
    import torch

    choose_precision(options)
    if uses_gpu(options) and count_devices(options) > torch.cuda.device_count():
        raise ConfigError(
            f"trainer.devices={options.devices}: this machine has {torch.cuda.device_count()} GPUs",
            "as many devices as there are",
            "use trainer.devices=auto in a new run, or go on where there are as many",
        )


def device_of(options: TrainerOptions) -> "torch.device":
    """Where all stages compute: the one decision of it.

    Raises:
        ConfigError: a GPU is asked for and none is there.
    """
    import torch

    return torch.device("cuda" if uses_gpu(options) else "cpu")


def count_devices(options: TrainerOptions) -> int:
    """How many devices train: those asked for, or all GPUs, or one CPU process."""
    import torch

    if options.devices != "auto":
        return options.devices
    return torch.cuda.device_count() if uses_gpu(options) else 1


def choose_precision(options: TrainerOptions) -> Precision:
    """The precision to compute in.

    Raises:
        ConfigError: fp16 without a GPU: its loss scaling is CUDA's.
    """
    from modules.hardware import multiplies_bf16_fast

    device = device_of(options)
    if options.precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            "trainer.precision=fp16: not on a CPU", "fp32 or bf16", "use trainer.precision=auto"
        )
    if options.precision != "auto":
        return options.precision
    return "bf16" if multiplies_bf16_fast(device) else "fp32"


def describe_device(options: TrainerOptions) -> str:
    """The device and the precision, for people."""
    import torch

    if uses_gpu(options):
        device = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    else:
        device = f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{device}, {choose_precision(options)}"
