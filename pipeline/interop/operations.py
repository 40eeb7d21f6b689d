"""Steps between two layouts of the tensors of a model: split, transpose, permute, fold; all reversible.

`forward` goes from their layout to ours and `backward` from ours to theirs; each takes and gives a list of
tensors. A fold is an exact rewriting of the same function, such as a factor that moves into a matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Tensors = list[Tensor]


class Operation(Protocol):
    """A step between the two layouts."""

    def forward(self, tensors: Tensors) -> Tensors:
        """From theirs to ours."""
        ...

    def backward(self, tensors: Tensors) -> Tensors:
        """From ours to theirs."""
        ...


@dataclass(frozen=True)
class Split:
    """One tensor of theirs is several of ours, of these sizes, one below the other."""

    sizes: Sequence[int]

    def forward(self, tensors: Tensors) -> Tensors:
        """Cut it up."""
        (whole,) = tensors
        return list(torch.split(whole, list(self.sizes)))

    def backward(self, tensors: Tensors) -> Tensors:
        """Put the parts together."""
        return [torch.cat(tensors)]


@dataclass(frozen=True)
class Transpose:
    """Their matrix is (inputs, outputs), as in GPT-2's `Conv1D`; ours is (outputs, inputs)."""

    def forward(self, tensors: Tensors) -> Tensors:
        """Swap the axes."""
        return [tensor.T for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        """Swap them back."""
        return [tensor.T for tensor in tensors]


@dataclass(frozen=True)
class Permute:
    """The same features in another order: feature i of ours is feature `order[i]` of theirs, along `dims`."""

    order: Sequence[int]
    dims: Sequence[int] = (0,)

    def forward(self, tensors: Tensors) -> Tensors:
        """Take theirs in our order."""
        return [self._taken(tensor, torch.tensor(self.order)) for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        """Take ours in their order."""
        return [self._taken(tensor, torch.tensor(self.order).argsort()) for tensor in tensors]

    def _taken(self, tensor: Tensor, order: Tensor) -> Tensor:
        for dim in self.dims:
            tensor = tensor.index_select(dim, order.to(tensor.device))
        return tensor


@dataclass(frozen=True)
class FoldFactor:
    """A factor that their forward applies and ours does not, or the other way round, kept in the weight."""

    factor: float

    def forward(self, tensors: Tensors) -> Tensors:
        """Multiply."""
        return [tensor * self.factor for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        """Divide."""
        return [tensor / self.factor for tensor in tensors]


@dataclass(frozen=True)
class FoldEqual:
    """Two equal tensors of theirs are one of ours.

    So a gated network with gate = up is our squared ReLU: relu(x W) * (x W) = relu(x W)^2.
    """

    def forward(self, tensors: Tensors) -> Tensors:
        """Keep one.

        Raises:
            ValueError: they differ.
        """
        first, second = tensors
        if not torch.equal(first, second):
            raise ValueError("two tensors that should be equal differ")
        return [first]

    def backward(self, tensors: Tensors) -> Tensors:
        """Write it twice."""
        (one,) = tensors
        return [one, one.clone()]


@dataclass(frozen=True)
class FoldOffset:
    """Their table of positions, which is the first tensor, begins with rows that no token uses."""

    n_rows: int

    def forward(self, tensors: Tensors) -> Tensors:
        """Cut them off."""
        table, *others = tensors
        return [table[self.n_rows :], *others]

    def backward(self, tensors: Tensors) -> Tensors:
        """Rows of zeros before."""
        table, *others = tensors
        return [torch.cat([table.new_zeros(self.n_rows, table.shape[1]), table]), *others]


@dataclass(frozen=True)
class FoldTypeZero:
    """Their type 0 has a vector that every token gets by default; our type 0 adds nothing.

    So it is added to the table of positions, of which every token gets one row too, and taken from the
    vectors of the other types. In the table of tokens it would reach the logits of a tied head.
    """

    def forward(self, tensors: Tensors) -> Tensors:
        """Positions and types, to positions with type 0 and the other types less it, where there are any."""
        positions, types = tensors
        others = [types[1:] - types[0]] if len(types) > 1 else []
        return [positions + types[0], *others]

    def backward(self, tensors: Tensors) -> Tensors:
        """A type 0 of zeros before the others."""
        positions, *types = tensors
        zero = positions.new_zeros(1, positions.shape[1])
        return [positions, torch.cat([zero, *types])]


@dataclass(frozen=True)
class FoldTable:
    """Their table of positions is ours with a fixed one added."""

    fixed: Tensor

    def forward(self, tensors: Tensors) -> Tensors:
        """Take the fixed part away."""
        return [tensor - self.fixed.to(tensor) for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        """Add it."""
        return [tensor + self.fixed.to(tensor) for tensor in tensors]


@dataclass(frozen=True)
class Reshape:
    """The same numbers in another shape."""

    theirs: Sequence[int]
    ours: Sequence[int]

    def forward(self, tensors: Tensors) -> Tensors:
        """In our shape."""
        return [tensor.reshape(*self.ours) for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        """In theirs."""
        return [tensor.reshape(*self.theirs) for tensor in tensors]
