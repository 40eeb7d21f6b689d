"""Weights that are shared out among processes (FSDP2), and what is computed with them.

`shard` turns each parameter of a module into a `DTensor`, of which each process holds some rows. FSDP2
gathers the parameters of a layer before it is used and frees them afterwards; gradients and the states of
the optimizer are shards too. The functions below leave ordinary tensors and modules as they are.

Source: Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel"; Rajbhandari et
al. 2020, "ZeRO", section 5.3 (stage 3).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from modules.layers import Layer

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def shard(root: nn.Module, mesh: "DeviceMesh", methods: Sequence[str] = ()) -> None:
    """Shard the parameters of `root` in place; each `Layer` is gathered on its own, all else with the root.

    Args:
        root: what is called in training.
        mesh: one dimension: shards over all of it. Two: shards over the second, copies over the first.
        methods: what of `root` is called, beside `forward`. All of the loss is to be computed in one of them,
            for otherwise some gradients are not reduced.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for layer in [part for part in root.modules() if isinstance(part, Layer)]:
        fully_shard(layer, mesh=mesh)
    fully_shard(root, mesh=mesh)
    for name in methods:
        register_fsdp_forward_method(root, name)
    # Otherwise what is called first would be taken for the root: a layer, where a model is used outside.
    root._get_fsdp_state()._lazy_init()  # type: ignore[union-attr, operator]


def without_memory(model: AnyModule) -> AnyModule:
    """A copy of `model` whose parameters have no memory yet: `model` itself stays sharded once it was."""
    empty = {
        id(weight): nn.Parameter(weight.detach().to("meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, empty)


def gather(model: nn.Module) -> None:
    """Hold all parameters of `model` whole: any process can use it, as often as it likes, until `release`.

    All processes do so together. What changes a shard meanwhile is not seen.
    """
    for part in _sharded_parts(model):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def release(model: nn.Module) -> None:
    """Free what was gathered of the parameters of `model`."""
    parts = _sharded_parts(model)
    for number, part in enumerate(parts):
        # The root comes first. Its parameters stay until the backward pass, which needs them at once.
        part.set_reshard_after_forward(number > 0, recurse=False)
        part.reshard()
    if parts:
        # Each process would otherwise gather in advance, in the next backward pass, what it has used here.
        parts[0].reset_iter_state()


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Hold all parameters of `model` whole meanwhile."""
    gather(model)
    try:
        yield
    finally:
        release(model)


def _sharded_parts(model: nn.Module) -> list["FSDPModule"]:
    from torch.distributed.fsdp import FSDPModule

    return [part for part in model.modules() if isinstance(part, FSDPModule)]


def is_sharded(tensor: Tensor) -> bool:
    """Whether processes hold a part each of `tensor`."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of `tensor`; it shares the memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[operator]


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`, which all processes ask for together."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[operator]


def sharded_like(tensor: Tensor, weight: Tensor) -> Tensor:
    """`tensor`, which every process has, shared out as `weight` is."""
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
    """`function` of each whole matrix, of which this process has a shard, as a shard again.

    Each process gathers a share of the matrices, computes these, and sends their rows back: two exchanges for
    all, each of as many bytes as the process holds.

    Args:
        function: matrix to matrix of the same shape and type.
        shards: this process's rows of each matrix, all of one type.
        weights: sharded matrices of the same shapes, which tell how the rows are shared out.
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
    pieces = iter(got.split([rows_of[k][rank] * shapes[k][1] for rank in range(n) for k in mine]))
    parts: dict[int, list[Tensor]] = {k: [] for k in mine}
    for _ in range(n):
        for k in mine:
            parts[k].append(next(pieces))
    made = {k: function(torch.cat(parts[k]).view(shapes[k])).split(rows_of[k]) for k in mine}
    back = _exchange(_flat([made[k][rank] for rank in range(n) for k in mine], like=sent), here, there, group)
    order = [k for rank in range(n) for k in owned[rank]]
    results = back.split([shards[k].numel() for k in order])
    by_matrix = dict(zip(order, results, strict=True))
    return [by_matrix[k].view_as(shards[k]) for k in range(len(shards))]


def share_out(costs: Sequence[float], n: int) -> list[list[int]]:
    """Indices of `costs` in `n` shares of about the same sum: the dearest first, each to the cheapest share.

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
    """The processes among which the rows of `weight` are shared out."""
    from torch.distributed.tensor import DTensor, Shard

    assert isinstance(weight, DTensor)
    (dimension,) = (i for i, placement in enumerate(weight.placements) if isinstance(placement, Shard))
    return weight.device_mesh.get_group(dimension)


def rows_by_process(n_rows: int, n: int) -> list[int]:
    """How many rows of a sharded tensor each of `n` processes has, as `torch.chunk` cuts them."""
    each = -(-n_rows // n)
    return [max(0, min(each, n_rows - each * rank)) for rank in range(n)]


def _flat(tensors: Sequence[Tensor], *, like: Tensor) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors]) if tensors else like.new_empty(0)


def _exchange(sent: Tensor, receive: list[int], send: list[int], group: "ProcessGroup") -> Tensor:
    """Send each process of `group` its part of `sent`; what they send comes in their order."""
    got = sent.new_empty(sum(receive))
    torch.distributed.all_to_all_single(got, sent, receive, send, group=group)
    return got
