"""Modules without memory: their names and shapes, to check a configuration or a file before building it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Build modules on the meta device, and skip initializing their weights, which have no values there.

    On this device torch computes `normal_`, with which embeddings are initialized, in Python code that
    imports torch's compiler: that takes more than a second.
    """
    with torch.device("meta"), _WithoutInit():
        yield


class _WithoutInit(TorchFunctionMode):
    """The init functions of torch's layers do nothing with tensors on the meta device.

    These functions tell torch that they are called: `uniform_`, `normal_`, `constant_`, `kaiming_uniform_`.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
