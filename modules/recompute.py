"""Activation checkpointing: what is computed again in the backward pass needs no memory until then."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

#: none: keep all activations. selective: keep the results of matrix products and of attention, recompute what
#: is cheap. full: keep what a layer is given, recompute the layer.
Recompute = Literal["none", "selective", "full"]

#: Dear to compute: their results are kept by `selective`.
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
    """The call of `layer`, with what `recompute` says computed again in its backward pass; same results.

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
