"""The work of a training step, and the most that a device can do."""

from collections.abc import Mapping

import lightning as L
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from modules.lit_module import LitModule

#: Dense FLOP/s of matrix products in bf16 or fp16 by a part of the device's name, the longer first; from the
#: makers' data sheets, whose larger numbers are for sparse matrices.
PEAK_FLOPS_PER_S = {
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops_per_s(trainer: L.Trainer, device: torch.device) -> float | None:
    """The peak of one `device` at the trainer's precision; None where it is not known, as on every CPU."""
    if device.type != "cuda" or trainer.precision not in ("bf16-mixed", "16-mixed"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_FLOPS_PER_S.items() if part in name), None)


def count_training_flops(module: LitModule, batch: Mapping[str, Tensor]) -> float:
    """FLOPs of a forward and backward pass over `batch`: the first is counted, the second is twice the first.

    Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1.
    """
    eager = torch.compiler.set_stance("force_eager")  # compiled code hides its operators
    precision = module.trainer.precision_plugin.forward_context()
    with eager, precision, torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.objective.loss(module.model, batch)
    flops: int = counter.get_total_flops()
    return 3.0 * flops
