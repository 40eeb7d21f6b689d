"""Where a stage computes, and in which precision: the one decision of it."""

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import processes
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
    devices, _ = devices_and_nodes(options)
    if uses_gpu(options) and devices > torch.cuda.device_count():
        raise ConfigError(
            f"{devices} processes for {torch.cuda.device_count()} GPUs of this machine",
            "as many devices as there are",
            "use trainer.devices=auto in a new run without torchrun, or go on where there are as many",
        )


def device_of(options: TrainerOptions) -> "torch.device":
    """Where all stages compute: the one decision of it.

    Raises:
        ConfigError: a GPU is asked for and none is there.
    """
    import torch

    return torch.device("cuda" if uses_gpu(options) else "cpu")


def count_devices(options: TrainerOptions) -> int:
    """How many devices train: those that torchrun or srun has started a process for, or else those asked for,
    or all GPUs, or one CPU process.

    Raises:
        ConfigError: other ones are asked for than there are processes.
    """
    import torch

    if (launched := processes.count_launched()) > 1:
        if options.devices not in ("auto", launched):
            raise ConfigError(
                f"trainer.devices={options.devices}, and {launched} processes were started",
                "a process for each device",
                f"leave out trainer.devices, or start {options.devices} processes",
            )
        return launched
    if options.devices != "auto":
        return options.devices
    return torch.cuda.device_count() if uses_gpu(options) else 1


def devices_and_nodes(options: TrainerOptions) -> tuple[int, int]:
    """How many devices of each machine train, and how many machines.

    Raises:
        ConfigError: the machines have no equal share.
    """
    n_devices, here = count_devices(options), processes.count_launched_here()
    if processes.count_launched() == 1:
        return n_devices, 1
    if n_devices % here:
        raise ConfigError(
            f"{here} of {n_devices} processes run on this machine",
            "as many on each machine",
            "give each machine the same --nproc-per-node",
        )
    return here, n_devices // here


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

    n_devices = count_devices(options)
    if uses_gpu(options):
        device = f"{n_devices} x {torch.cuda.get_device_name()}"
    else:
        each = f"{n_devices} processes, each with " if n_devices > 1 else ""
        device = f"CPU, {each}{torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{device}, {choose_precision(options)}"


def for_rows(options: TrainerOptions, n_rows: int) -> TrainerOptions:
    """The options with `max_steps` as `max_epochs` over so many rows asks for, if it is given."""
    if options.max_epochs is None:
        return options
    rows_per_step = options.batch_size * options.accumulate * count_devices(options)
    return replace(options, max_steps=math.ceil(options.max_epochs * n_rows / rows_per_step), max_epochs=None)
