"""Layers compiled by `torch.compile`, in training only: validation and generation have other shapes."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from modules.recompute import Recompute, recomputed


def layer_function(layer: nn.Module, recompute: Recompute, *, compiled: bool) -> Callable[..., Any]:
    """Return the function that applies `layer`; layers that are alike are compiled once."""
    if not compiled or not torch.is_grad_enabled():
        return recomputed(layer, recompute)
    return partial(_compiled_apply(), layer, recompute)


@cache
def _compiled_apply() -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(_apply)
    return compiled


def _apply(layer: nn.Module, recompute: Recompute, *inputs: Any, **options: Any) -> Any:
    return recomputed(layer, recompute)(*inputs, **options)
