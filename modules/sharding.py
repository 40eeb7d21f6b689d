"""Shard the weights of a model across processes (FSDP2), and compute with sharded weights.

`shard` replaces each parameter by a `DTensor`, of which each process stores some rows. FSDP2 gathers the
parameters of a layer before it is used, and frees them afterwards; gradients and optimizer states are sharded
in the same way. The functions below return ordinary tensors, and leave ordinary modules, unchanged.

Source: Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel"; Rajbhandari et
al. 2020, "ZeRO", section 5.3 (stage 3).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from modules.layers import Layer

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def shard(root: nn.Module, mesh: "DeviceMesh", methods: Sequence[str] = ()) -> None:
    """Shard the parameters of `root` in place; each `Layer` is gathered separately, the rest with the root.

    Args:
        root: the module that computes the loss.
        mesh: one dimension: the parameters are sharded along it. Two: sharded along the second, replicated
            along the first.
        methods: methods of `root` that are called like `forward`. The whole loss has to be computed in one of
            them: otherwise some gradients would not be reduced.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for layer in [part for part in root.modules() if isinstance(part, Layer)]:
        fully_shard(layer, mesh=mesh)
    fully_shard(root, mesh=mesh)
    for name in methods:
        register_fsdp_forward_method(root, name)
    # Otherwise the first module called becomes the root: a layer, if a model is used outside of training.
    root._get_fsdp_state()._lazy_init()  # type: ignore[operator]


def without_memory(model: AnyModule) -> AnyModule:
    """Return a copy of `model` whose parameters are on the meta device, to load weights into later.

    A sharded module cannot be converted back.
    """
    empty = {
        id(weight): nn.Parameter(weight.detach().to("meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, empty)


def gather(model: nn.Module) -> None:
    """Gather all parameters of `model` until `release`: any process can then call it, any number of times.

    A collective operation. Changes to shards in the meantime have no effect on the gathered parameters.
    """
    for part in _sharded_parts(model):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def release(model: nn.Module) -> None:
    """Free the gathered parameters of `model`."""
    parts = _sharded_parts(model)
    for number, part in enumerate(parts):
        # The root comes first; its parameters are kept for the backward pass, which begins with them.
        part.set_reshard_after_forward(number > 0, recurse=False)
        part.reshard()
    if parts:
        # Otherwise the next backward pass would prefetch the layers called since, in some processes only.
        parts[0].reset_iter_state()


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Gather all parameters of `model` within the context."""
    gather(model)
    try:
        yield
    finally:
        release(model)


def _sharded_parts(model: nn.Module) -> list["FSDPModule"]:
    from torch.distributed.fsdp import FSDPModule

    return [part for part in model.modules() if isinstance(part, FSDPModule)]


def is_sharded(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Whether each process stores a part of `tensor`."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return the part of `tensor` that this process stores, without copying it."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return the whole `tensor`; a collective operation."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def sharded_like(tensor: Tensor, weight: Tensor) -> Tensor:
    """Shard `tensor`, which every process has, in the same way as `weight`."""
    if not is_sharded(weight):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(weight, DTensor)
    mesh = weight.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, weight.placements, src_data_rank=None)


def map_matrices(
    function: Callable[[Tensor], Tensor],
    shards: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> list[Tensor]:
    """Apply `function` to whole matrices, given their shards, and return shards of the results.

    Each process gathers some of the matrices, applies the function to them, and sends the rows back: two
    all-to-all exchanges in total, in which each process sends as many bytes as its shards have.

    Args:
        function: maps a matrix to one of the same shape and dtype.
        shards: this process's rows of each matrix, all of the same dtype.
        weights: sharded parameters of the same shapes, whose placements apply to `shards`.
    """
    group = _shard_group(weights[0])
    n, me = group.size(), group.rank()
    shapes = [weight.shape for weight in weights]
    owned = share_out([rows * columns * min(rows, columns) for rows, columns in shapes], n)
    rows_of = [rows_by_process(shape[0], n) for shape in shapes]
    mine = owned[me]
    here = [sum(shards[k].numel() for k in owned[rank]) for rank in range(n)]
    there = [sum(rows_of[k][rank] * shapes[k][1] for k in mine) for rank in range(n)]
    sent = _flat([shards[k] for rank in range(n) for k in owned[rank]], like=shards[0])
    got = _exchange(sent, there, here, group)
    pieces = torch.split(got, [rows_of[k][rank] * shapes[k][1] for rank in range(n) for k in mine])
    made = {
        k: torch.split(function(torch.cat(pieces[i :: len(mine)]).view(shapes[k])), rows_of[k])
        for i, k in enumerate(mine)
    }
    back = _exchange(_flat([made[k][rank] for rank in range(n) for k in mine], like=sent), here, there, group)
    order = [k for rank in range(n) for k in owned[rank]]
    results = dict(zip(order, torch.split(back, [shards[k].numel() for k in order]), strict=True))
    return [results[k].view_as(shards[k]) for k in range(len(shards))]


def share_out(costs: Sequence[float], n: int) -> list[list[int]]:
    """Distribute the indices of `costs` over `n` groups of similar total cost, the most expensive first.

    Source: Graham 1969, "Bounds on Multiprocessing Timing Anomalies" (longest processing time first).
    """
    shares: list[list[int]] = [[] for _ in range(n)]
    sums = [0.0] * n
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        least = min(range(n), key=lambda share: sums[share])
        shares[least].append(index)
        sums[least] += costs[index]
    return shares


def _shard_group(weight: Tensor) -> "ProcessGroup":
    """Return the process group across which `weight` is sharded."""
    from torch.distributed.tensor import DTensor, Shard

    assert isinstance(weight, DTensor)
    (dimension,) = (i for i, placement in enumerate(weight.placements) if isinstance(placement, Shard))
    return weight.device_mesh.get_group(dimension)


def rows_by_process(n_rows: int, n: int) -> list[int]:
    """Return the rows that each of `n` processes has of a sharded tensor, as `torch.chunk` splits them."""
    each = -(-n_rows // n)
    return [max(0, min(each, n_rows - each * rank)) for rank in range(n)]


def _flat(tensors: Sequence[Tensor], *, like: Tensor) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors]) if tensors else like.new_empty(0)


def _exchange(sent: Tensor, receive: list[int], send: list[int], group: "ProcessGroup") -> Tensor:
    """Send each process of `group` its part of `sent`, and return what they send, in order of rank."""
    got = sent.new_empty(sum(receive))
    torch.distributed.all_to_all_single(got, sent, receive, send, group=group)
    return got
