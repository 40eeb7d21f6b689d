"""The work of a training step, and the most that a device can do."""

from collections.abc import Mapping
from typing import Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modules.freezing import depth_of_parameters
from modules.heads import LMHead
from modules.lit_module import LitModule
from modules.model import Model

Batch = Mapping[str, Tensor]
#: What a weight is multiplied with: tokens that an encoder or a single stack reads, those that the decoder
#: beside an encoder reads, or those that are labelled.
Tokens = Literal["read", "decoded", "labelled"]

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


def count_tokens(batch: Batch) -> dict[Tokens, int | Tensor]:
    """Tokens of a batch, padding left out; nothing waits for a device."""
    found: dict[Tokens, int | Tensor] = {"read": _real_tokens(batch, "")}
    if "decoder_input_ids" in batch:
        found["decoded"] = _real_tokens(batch, "decoder_")
    if "label_index" in batch:
        found["labelled"] = batch["label_index"].numel()
    return found


def _real_tokens(batch: Batch, prefix: str) -> int | Tensor:
    ids = batch[f"{prefix}input_ids"]
    real = batch.get(f"{prefix}segment_ids", batch.get(f"{prefix}attention_mask"))
    return ids.numel() if real is None else real.count_nonzero()


class TrainingFlops:
    """What training on tokens costs in products with weights; as in the source, without attention's scores.

    A number of a matrix costs each token that it is multiplied with 2 FLOPs forward, 2 for the gradient of
    what went in, if something is trained there or nearer to the tokens, and 2 for its own gradient, if it is
    trained: 6 where all is trained. Looking up an embedding costs nothing; as a tied head it is multiplied
    with the labelled tokens. Keys and values of cross-attention are made of the encoder's tokens.

    Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1.
    """

    def __init__(self, model: Model) -> None:
        depths = depth_of_parameters(model)
        tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
        self._depths = [(depths[name], weight) for name, weight in model.named_parameters()]
        self._matrices: list[tuple[Tokens, int, nn.Parameter]] = [
            (_multiplied_with(name), depths[name], weight)
            for name, weight in model.named_parameters()
            if weight.ndim == 2 and id(weight) not in tables
        ]
        if isinstance(model.head, LMHead):
            self._matrices.append(("labelled", max(depths.values()), model.head.weight))

    def of(self, n_tokens: Mapping[Tokens, int | Tensor]) -> float | Tensor:
        """FLOPs of a forward and a backward pass, with what is frozen now."""
        lowest = min((depth for depth, weight in self._depths if weight.requires_grad), default=0)
        costs: dict[Tokens, int] = {}
        for tokens, depth, weight in self._matrices:
            passes = 1 + (depth >= lowest) + weight.requires_grad
            costs[tokens] = costs.get(tokens, 0) + 2 * passes * weight.numel()
        return sum(float(cost) * n_tokens.get(tokens, 0) for tokens, cost in costs.items())


def _multiplied_with(name: str) -> Tokens:
    of_the_memory = name.endswith(("cross_attn.k_proj.weight", "cross_attn.v_proj.weight"))
    return "decoded" if name.startswith("backbone.decoder.") and not of_the_memory else "read"


def count_training_flops(module: LitModule, batch: Batch) -> float:
    """FLOPs of a forward and backward pass over `batch`: the first is counted, the second is twice the first.

    Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1.
    """
    eager = torch.compiler.set_stance("force_eager")  # compiled code hides its operators
    precision = module.trainer.precision_plugin.forward_context()
    with eager, precision, torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.objective.loss(module.model, batch)
    flops: int = counter.get_total_flops()
    return 3.0 * flops
