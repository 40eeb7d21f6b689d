"""Where a stage computes, and in which precision: the one decision of it."""

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.machine.options import Precision, TrainerOptions

if TYPE_CHECKING:
    import torch


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


def for_rows(options: TrainerOptions, n_rows: int) -> TrainerOptions:
    """The options with `max_steps` as `max_epochs` over so many rows asks for, if it is given."""
    if options.max_epochs is None:
        return options
    rows_per_step = options.batch_size * options.accumulate * count_devices(options)
    return replace(options, max_steps=math.ceil(options.max_epochs * n_rows / rows_per_step), max_epochs=None)
