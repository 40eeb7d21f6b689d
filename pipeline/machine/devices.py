"""Decide where a stage computes, and in which precision."""

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import processes
from pipeline.errors import ConfigError
from pipeline.machine.options import Precision, TrainerOptions
from pipeline.tuning import usable_cores

if TYPE_CHECKING:
    import torch

#: CPU processes accepted on any machine: as many as one usually has GPUs, to rehearse such a run.
REHEARSAL_PROCESSES = 8


def uses_gpu(options: TrainerOptions) -> bool:
    """Return whether training runs on a GPU.

    Raises:
        ConfigError: if a GPU is requested but not available.
    """
    import torch

    if options.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError(
            "trainer.accelerator=gpu, but PyTorch finds no usable GPU",
            "a CUDA device and a CUDA build of PyTorch",
            "use trainer.accelerator=cpu, or check nvidia-smi and torch.version.cuda",
        )
    return options.accelerator != "cpu" and torch.cuda.is_available()


def check_device(options: TrainerOptions) -> None:
    """Reject devices that this machine does not have, before any data is read.

    Raises:
        ConfigError: if there is no GPU, there are too few GPUs or cores, fp16 is requested without a GPU, or
            compiled layers without a compiler.
    """
    import torch

    choose_precision(options)
    devices, _ = devices_and_nodes(options)
    if not uses_gpu(options):
        _check_cores(devices)
        if options.compile is True:
            _check_compiler()
    elif devices > torch.cuda.device_count():
        raise ConfigError(
            f"{devices} devices are requested, but this machine has {torch.cuda.device_count()} GPUs",
            f"at most {torch.cuda.device_count()} devices on this machine",
            f"use trainer.devices={torch.cuda.device_count()}, or start as many processes with torchrun",
        )


def _check_cores(n_processes: int) -> None:
    """Reject more CPU processes than this machine has cores.

    Processes of torchrun or srun are not counted: the cores that this process may use can be its own alone.

    Raises:
        ConfigError: if there are more, and more than a rehearsal of a run on GPUs needs.
    """
    cores = usable_cores()
    most = max(cores, REHEARSAL_PROCESSES)
    if processes.count_launched() == 1 and n_processes > most:
        raise ConfigError(
            f"trainer.devices={n_processes} would start {n_processes} processes, without a GPU, "
            f"where {cores} CPU {'core' if cores == 1 else 'cores'} may be used",
            f"at most {most} processes here",
            "leave out trainer.devices, since one process uses all cores, "
            f"or use trainer.devices={max(cores, 2)}",
        )


def _check_compiler() -> None:
    """Reject compiled layers on a CPU without a C++ compiler, before any data is read.

    Raises:
        ConfigError: if PyTorch finds none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ConfigError(
            "trainer.compile=true, but PyTorch finds no C++ compiler",
            "g++ or clang++, or its name in the environment variable CXX",
            "install one, or use trainer.compile=false",
        ) from error


def device_of(options: TrainerOptions) -> "torch.device":
    """Return the device on which all stages compute.

    Raises:
        ConfigError: if a GPU is requested but not available.
    """
    import torch

    return torch.device("cuda" if uses_gpu(options) else "cpu")


def count_devices(options: TrainerOptions) -> int:
    """Return the number of devices to train on.

    That is the number of processes started by torchrun or srun, or else the requested number, or else all
    GPUs, or one CPU process.

    Raises:
        ConfigError: if the requested number differs from the number of processes.
    """
    import torch

    if (launched := processes.count_launched()) > 1:
        if options.devices not in ("auto", launched):
            raise ConfigError(
                f"trainer.devices={options.devices}, but {launched} processes were started",
                "one process for each device",
                f"leave out trainer.devices, or start {options.devices} processes",
            )
        return launched
    if options.devices != "auto":
        return options.devices
    return torch.cuda.device_count() if uses_gpu(options) else 1


def devices_and_nodes(options: TrainerOptions) -> tuple[int, int]:
    """Return the number of devices per machine, and the number of machines.

    Raises:
        ConfigError: if the machines have different numbers of devices.
    """
    n_devices, here = count_devices(options), processes.count_launched_here()
    if processes.count_launched() == 1:
        return n_devices, 1
    if n_devices % here:
        raise ConfigError(
            f"{here} of {n_devices} processes run on this machine",
            "the same number on each machine",
            "give each machine the same --nproc-per-node",
        )
    return here, n_devices // here


def autocast_dtype(precision: str) -> "torch.dtype | None":
    """Return the type that autocast computes in; None for fp32, which needs no autocast."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def choose_precision(options: TrainerOptions) -> Precision:
    """Return the precision to compute in.

    Raises:
        ConfigError: if fp16 is requested without a GPU; its loss scaling needs CUDA.
    """
    from modules.hardware import multiplies_bf16_fast

    device = device_of(options)
    if options.precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            "trainer.precision=fp16 is not supported on a CPU", "fp32 or bf16", "use trainer.precision=auto"
        )
    if options.precision == "fp16" and options.is_sharded:
        raise ConfigError(
            f"trainer.precision=fp16 is not supported with trainer.strategy={options.strategy}",
            "fp32 or bf16, which need no scaled loss",
            "use trainer.precision=bf16",
        )
    if options.precision != "auto":
        return options.precision
    return "bf16" if multiplies_bf16_fast(device) else "fp32"


def describe_device(options: TrainerOptions) -> str:
    """Describe the device and the precision."""
    import torch

    n_devices = count_devices(options)
    if uses_gpu(options):
        device = f"{n_devices} x {torch.cuda.get_device_name()}"
    else:
        each = f"{n_devices} processes, each with " if n_devices > 1 else ""
        device = f"CPU, {each}{torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{device}, {choose_precision(options)}"


def rows_per_step(options: TrainerOptions) -> int:
    """Return the rows of a step: those of all forward passes on all devices."""
    return options.batch_size * options.accumulate * count_devices(options)


def for_rows(options: TrainerOptions, n_rows: int) -> TrainerOptions:
    """Compute `max_steps` from `max_epochs` and the number of rows, if `max_epochs` is given."""
    if options.max_epochs is None:
        return options
    steps = math.ceil(options.max_epochs * n_rows / rows_per_step(options))
    return replace(options, max_steps=steps, max_epochs=None)
