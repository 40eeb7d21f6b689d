"""Look inside a model without changing it: hooks, never flags."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from modules.attention import MultiHeadAttention


class AttentionRecorder:
    """What each attention of a model looked at, by the attention's name in the model.

    A recorded forward pass computes the weights a second time, slowly and in float32; without `recording()`
    the model is as fast as ever.

    Source: the weights are softmax(Q K^T / sqrt(d_k)) of Vaswani et al. 2017, section 3.2.1, equation 1.
    """

    def __init__(self, model: nn.Module) -> None:
        self._attentions = {
            name: module for name, module in model.named_modules() if isinstance(module, MultiHeadAttention)
        }
        self.weights: dict[str, Float[Tensor, "B H T S"]] = {}

    @contextmanager
    def recording(self) -> Iterator["AttentionRecorder"]:
        """Record within this block; of several forward passes the last one stays."""
        with ExitStack() as hooks:
            for name, attention in self._attentions.items():
                hook = partial(self._record, name)
                hooks.enter_context(attention.register_forward_hook(hook, with_kwargs=True))
            yield self

    def _record(
        self, name: str, module: MultiHeadAttention, args: Any, kwargs: dict[str, Any], output: Tensor
    ) -> None:
        self.weights[name] = module.attention_weights(*args, **kwargs).detach()

    def last_layer(self) -> dict[str, Float[Tensor, "B H T S"]]:
        """The recorded weights of the last layer of each stack, by names as `encoder.self_attn`."""
        last = {}
        for name, weights in self.weights.items():
            stack, _, attention = name.partition(".layers.")
            last[f"{stack.rpartition('.')[2]}.{attention.partition('.')[2]}"] = weights
        return last
