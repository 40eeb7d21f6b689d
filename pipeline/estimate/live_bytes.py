"""Track the bytes of live tensors in a training step, by kind, at the peak of each part of the step."""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

#: The purpose of memory. `casts` are copies of weights in the compute precision, cached by autocast;
#: `communication` is what several devices need in addition (`pipeline.estimate.memory`).
Kind = Literal[
    "parameters", "gradients", "optimizer", "casts", "activations", "temporary", "batch", "communication"
]
Bytes = Mapping[Kind, float]

_CAST = torch.ops.aten._to_copy.default


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all live storages by kind, and records the peak of each part of a step.

    Like `torch.distributed._tools.mem_tracker.MemTracker`, it sees the outputs of operators but not the
    workspace of kernels. Unlike it, it supports modules that are called several times per step, such as the
    head under a chunked loss.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peaks: dict[str, Bytes] = {}
        self._known: Any = WeakIdKeyDictionary()
        self._alive: Counter[Kind] = Counter()
        self._part = ""
        self._kind: Kind = "activations"
        self._parameters: set[int] = set()

    def hold(self, tensors: Iterable[Tensor], kind: Kind) -> None:
        """Count existing tensors, or count them as another kind from now on."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if kind == "parameters":
                self._parameters.add(id(storage))
            if storage in self._known:
                entry = self._known[storage]
                self._alive[entry[0]] -= entry[1]
                self._alive[kind] += entry[1]
                entry[0] = kind
            else:
                self._add(storage, kind)

    @contextmanager
    def part(self, name: str, kind: Kind) -> Iterator[None]:
        """Count tensors created in the block as `kind`, and record the peak of the part `name`."""
        self.enter(name, kind)
        yield
        self._part = ""

    def enter(self, name: str, kind: Kind) -> None:
        """Begin another part of the step."""
        self._part, self._kind = name, kind
        self._note_peak()

    def watch_gradients(self, model: nn.Module) -> None:
        """Count gradients as such from the moment they are complete."""
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self._hold_gradient)  # type: ignore[no-untyped-call]

    def _hold_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.hold([parameter.grad], "gradients")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count its outputs."""
        output = func(*args, **(kwargs or {}))
        cast = func is _CAST and id(args[0].untyped_storage()) in self._parameters
        kind: Kind = "casts" if cast else self._kind
        for leaf in (output,) if isinstance(output, Tensor) else tree_leaves(output):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage not in self._known:
                    self._add(storage, kind)
        self._note_peak()
        return output

    def _add(self, storage: Any, kind: Kind) -> None:
        entry = [kind, storage.nbytes()]
        self._known[storage] = entry
        self._alive[kind] += entry[1]
        weakref.finalize(storage, self._free, entry)

    def _free(self, entry: list[Any]) -> None:
        self._alive[entry[0]] -= entry[1]

    def _note_peak(self) -> None:
        if not self._part:
            return
        before = self.peaks.get(self._part)
        if before is None or self._alive.total() > sum(before.values()):
            self.peaks[self._part] = dict(self._alive)
