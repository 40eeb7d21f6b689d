"""Activation checkpointing: activations that are recomputed in the backward pass are not kept in memory."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

#: none: keep all activations. selective: keep the results of matrix products and attention, recompute the
#: rest. full: keep the inputs of each layer, recompute the layer.
Recompute = Literal["none", "selective", "full"]

#: Expensive operations, whose results `selective` keeps.
_KEPT = frozenset(
    {
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.bmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


def recomputed(layer: nn.Module, recompute: Recompute) -> Callable[..., Any]:
    """Return a function that calls `layer` and recomputes activations in its backward pass; same results.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", section 3; selective:
    Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 5.
    """
    if recompute == "none" or not torch.is_grad_enabled():
        return layer
    if recompute == "full":
        return partial(checkpoint, layer, use_reentrant=False)
    context_fn = partial(create_selective_checkpoint_contexts, _policy)
    return partial(checkpoint, layer, use_reentrant=False, context_fn=context_fn)


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
