"""The devices of an estimate: those that the user names, or those of this machine."""

from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.machine.accelerators import Accelerator, accelerator_called, read_gpus
from pipeline.machine.devices import count_devices, uses_gpu
from pipeline.machine.options import TrainerOptions


@dataclass(frozen=True, kw_only=True)
class Devices:
    """The number and kind of devices.

    Args:
        count: the number of devices.
        name: the name to display.
        memory_bytes: the memory of each device; processes on one CPU share its memory.
        accelerator: its entry in the table of accelerators; None on a CPU or for an unknown GPU.
        is_gpu: whether the devices are GPUs.
        is_here: whether they are the devices of this machine, on which steps can be timed.
    """

    count: int
    name: str
    memory_bytes: float
    accelerator: Accelerator | None
    is_gpu: bool
    is_here: bool


def devices_of(gpus: str | None, options: TrainerOptions) -> Devices:
    """Return the devices that `gpus` names, or else those of this machine.

    Raises:
        ConfigError: the accelerator is unknown, or `trainer.devices` is another number.
    """
    if gpus is None:
        return _devices_here(options)
    number, accelerator = read_gpus(gpus)
    configured = None if options.devices == "auto" else options.devices
    if number is not None and configured is not None and number != configured:
        raise ConfigError(
            f"gpus={gpus} contradicts trainer.devices={configured}",
            "the same number of devices",
            f"leave out trainer.devices, or give gpus={accelerator.name}",
        )
    return Devices(
        count=number or configured or 1,
        name=accelerator.name.upper(),
        memory_bytes=accelerator.memory_bytes,
        accelerator=accelerator,
        is_gpu=True,
        is_here=False,
    )


def _devices_here(options: TrainerOptions) -> Devices:
    import psutil
    import torch

    count = count_devices(options)
    if uses_gpu(options):
        name = torch.cuda.get_device_name()
        memory = float(torch.cuda.get_device_properties(0).total_memory)
        known = accelerator_called(name)
        return Devices(
            count=count, name=name, memory_bytes=memory, accelerator=known, is_gpu=True, is_here=True
        )
    libraries = psutil.Process().memory_info().rss  # which each process loads, like this one
    memory = float(psutil.virtual_memory().total) / count - libraries
    name = "CPU" if count == 1 else "CPU process"
    return Devices(count=count, name=name, memory_bytes=memory, accelerator=None, is_gpu=False, is_here=True)
