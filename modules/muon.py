"""torch's Muon, with options for the data type and the frequency of its Newton-Schulz iteration."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from math import log2
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from modules.hardware import multiplies_bf16_fast
from modules.sharding import is_sharded, local, map_matrices

#: The names of the types, as for `trainer.precision`.
NewtonSchulz = Literal["bf16", "fp32"]
DTYPES: dict[NewtonSchulz, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
#: What checkpoints of earlier versions and of `torch.optim.Muon` lack, with the values that they had.
FORMER_OPTIONS = {"newton_schulz": "bf16", "update_every": 1, "step": 0}
#: The most elements of matrices in one call: for small matrices, the overhead of a call exceeds its products.
BATCH_ELEMENTS = 2**20
#: What `fitting_update_every` chooses from: with 8, a model ended at a higher loss (docs/log.md).
STEPS_BETWEEN_UPDATES = (1, 2, 4)


def fastest_newton_schulz(device: torch.device) -> NewtonSchulz:
    """Return the type in which the iteration is faster on `device`; emulated bf16 would dominate a step."""
    return "bf16" if multiplies_bf16_fast(device) else "fp32"


def fitting_update_every(width: int, step_tokens: int) -> int:
    """Return after how many steps to update a matrix, so that the iterations do not dominate the steps.

    For a square matrix of `width` d, five iterations are 30 d^3 operations, and the products of a step with T
    tokens are 6 d^2 T: the former are 5 d / T times as many, divided by the steps between two updates. That
    is brought as near to a tenth as `STEPS_BETWEEN_UPDATES` allows: 1 step for the large batches of a GPU.
    """
    wanted = 5 * width / step_tokens / 0.1
    return min(STEPS_BETWEEN_UPDATES, key=lambda steps: abs(log2(steps / wanted)))


def orthogonalized(
    matrix: Float[Tensor, "*B R C"],
    dtype: torch.dtype,
    *,
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float,
) -> Float[Tensor, "*B R C"]:
    """Return U S V^T of `matrix` = U D V^T with all of S near 1, by Newton-Schulz iterations in `dtype`.

    With a batch dimension, each of B matrices is orthogonalized. In bfloat16 these are the operations of
    `torch.optim.Muon`, which supports no other type.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix.mT if tall else matrix).to(dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    by_gram = dtype == torch.float32 and x.shape[-1] >= 2 * x.shape[-2]
    x = (_iterated_by_gram if by_gram else _iterated)(x, coefficients, steps)
    return x.mT if tall else x


def _iterated(
    x: Float[Tensor, "*B R C"], coefficients: tuple[float, float, float], steps: int
) -> Float[Tensor, "*B R C"]:
    """Return x after `steps` iterations of x <- (a I + b G + c G^2) x, where G = x x^T."""
    a, b, c = coefficients
    add_product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterated_by_gram(
    x: Float[Tensor, "*B R C"], coefficients: tuple[float, float, float], steps: int
) -> Float[Tensor, "*B R C"]:
    """Return the same result from products of small matrices, in 0.6 of the time if C is 4 * R.

    All polynomials of G commute, so that with P = a I + b G + c G^2 the next G is P G P, and the result is
    the product of all P times x. It needs float32, because squaring halves the significant digits.
    """
    a, b, c = coefficients
    add_product = torch.addmm if x.ndim == 2 else torch.baddbmm
    gram = x @ x.mT
    product: Tensor | None = None
    for step in range(steps):
        polynomial = add_product(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
        if step < steps - 1:
            gram = polynomial @ gram @ polynomial
    return x if product is None else product @ x


class TypedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with options for the data type and the frequency of the Newton-Schulz iteration.

    If weights are sharded (`modules.sharding`), each process orthogonalizes some of them.

    Args:
        params: as in `torch.optim.Muon`.
        newton_schulz: `bf16`, as in `torch.optim.Muon`, or `fp32`, which is much faster if bf16 is emulated.
        update_every: the steps from one update of a matrix to the next, which is then this many times as
            large. The momentum has all gradients. The matrices take turns, so that all steps take equally
            long; with 1, each is updated at each step, as in `torch.optim.Muon`.
        options: as in `torch.optim.Muon`, except for `adjust_lr_fn`, which is "match_rms_adamw".
    """

    def __init__(
        self, params: Any, *, newton_schulz: NewtonSchulz, update_every: int = 1, **options: Any
    ) -> None:
        super().__init__(params, adjust_lr_fn="match_rms_adamw", **options)
        for group in self.param_groups:
            group |= {"newton_schulz": newton_schulz, "update_every": update_every, "step": 0}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update matrices by their orthogonalized momentum; `closure` is called once before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for name, value in FORMER_OPTIONS.items():
                group.setdefault(name, value)
            every, step = group["update_every"], group["step"]
            group["step"] = step + 1
            self._update_momentum([weight for weight in group["params"] if weight.grad is not None], group)
            due = [weight for weight in group["params"][step % every :: every] if weight.grad is not None]
            for batch in _batches(due, group):
                self._update(batch, group, lr=every * group["lr"])
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any], lr: float) -> None:
        """Update weights of the same shape, or any weights that are sharded."""
        shards = [local(weight) for weight in weights]
        torch._foreach_mul_(shards, 1 - lr * group["weight_decay"])
        for shard, weight, update in zip(shards, weights, self._updates(weights, group), strict=True):
            shard.add_(update, alpha=-lr * 0.2 * max(weight.shape) ** 0.5)

    def _updates(self, weights: list[Tensor], group: dict[str, Any]) -> Iterable[Tensor]:
        """Return the orthogonalized momentum of each weight; of sharded weights, the rows of this process."""
        dtype = DTYPES[group["newton_schulz"]]
        orthogonalize = partial(
            orthogonalized,
            dtype=dtype,
            coefficients=group["ns_coefficients"],
            steps=group["ns_steps"],
            eps=group["eps"],
        )
        if is_sharded(weights[0]):
            directions = [self._directions([weight], group)[0].to(dtype) for weight in weights]
            return map_matrices(orthogonalize, directions, weights)
        directions = self._directions(weights, group)
        if len(weights) == 1:
            return map(orthogonalize, directions)
        return orthogonalize(torch.stack(directions)).unbind()

    def _update_momentum(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Average the gradient of each weight into its momentum."""
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        if weights:
            averages, gradients = self._averages(weights)
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])

    def _directions(self, weights: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Return the Nesterov form of the momentum of each weight."""
        averages, gradients = self._averages(weights)
        return list(torch._foreach_lerp(gradients, averages, group["momentum"]))

    def _averages(self, weights: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the momentum and the gradient of each weight; of sharded ones, those of this process."""
        averages = [local(self.state[weight]["momentum_buffer"]) for weight in weights]
        return averages, [local(weight.grad) for weight in weights if weight.grad is not None]


def _batches(weights: list[Tensor], group: dict[str, Any]) -> Iterable[list[Tensor]]:
    """Yield small matrices of one shape together if products are in bfloat16, and other weights one by one.

    In float32, products of batches are no faster than those of their matrices. Sharded weights are all
    yielded together.
    """
    if weights and is_sharded(weights[0]):
        yield weights
        return
    alike: dict[Any, list[Tensor]] = defaultdict(list)
    for weight in weights:
        alike[weight.shape, weight.dtype, weight.device].append(weight)
    for (shape, _, _), same in alike.items():
        in_bf16 = group["newton_schulz"] == "bf16"
        size = max(1, BATCH_ELEMENTS // shape.numel()) if in_bf16 else 1
        yield from (same[start : start + size] for start in range(0, len(same), size))
