"""Count the FLOPs of a training step, and look up the peak of a device."""

from collections.abc import Mapping

import lightning as L
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from modules.lit_module import LitModule
from modules.sharding import gathered
from pipeline.machine.accelerators import accelerator_called

Batch = Mapping[str, Tensor]


def peak_flops_per_s(trainer: L.Trainer, device: torch.device) -> float | None:
    """Return the peak rate of `device` at the trainer's precision, or None if unknown, as for every CPU."""
    if device.type != "cuda" or trainer.precision not in ("bf16-mixed", "16-mixed"):
        return None
    known = accelerator_called(torch.cuda.get_device_name(device))
    return None if known is None else known.flops_per_s


def count_training_flops(module: LitModule, batch: Batch) -> float:
    """Return the FLOPs of a forward and backward pass over `batch`; the latter counts as two forward passes.

    Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1.
    """
    eager = torch.compiler.set_stance("force_eager")  # compiled code hides its operators
    precision = module.trainer.precision_plugin.forward_context()
    with gathered(module), eager, precision, torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.objective.loss(module.model, batch)
    flops: int = counter.get_total_flops()
    return 3.0 * flops
