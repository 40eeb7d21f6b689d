"""Reversible conversions between two layouts of a model's tensors: split, transpose, permute, fold.

`forward` converts from their layout to ours and `backward` from ours to theirs; each takes and returns a list
of tensors. A fold rewrites the same function exactly, for example by moving a factor into a matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Tensors = list[Tensor]


class Operation(Protocol):
    """A conversion between the two layouts."""

    def forward(self, tensors: Tensors) -> Tensors:
        """Convert from their layout to ours."""
        ...

    def backward(self, tensors: Tensors) -> Tensors:
        """Convert from our layout to theirs."""
        ...


@dataclass(frozen=True)
class Split:
    """Splits one tensor of theirs along its first dimension into several of ours, with these sizes."""

    sizes: Sequence[int]

    def forward(self, tensors: Tensors) -> Tensors:
        """Split the tensor."""
        (whole,) = tensors
        return list(torch.split(whole, list(self.sizes)))

    def backward(self, tensors: Tensors) -> Tensors:
        """Concatenate the parts."""
        return [torch.cat(tensors)]


@dataclass(frozen=True)
class Transpose:
    """Transposes matrices: theirs are (inputs, outputs), as in GPT-2's `Conv1D`, ours (outputs, inputs)."""

    def forward(self, tensors: Tensors) -> Tensors:
        """Transpose the tensors."""
        return [tensor.T for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        """Transpose the tensors."""
        return [tensor.T for tensor in tensors]


@dataclass(frozen=True)
class Permute:
    """Reorders features along `dims`: feature i of ours is feature `order[i]` of theirs."""

    order: Sequence[int]
    dims: Sequence[int] = (0,)

    def forward(self, tensors: Tensors) -> Tensors:
        """Select their features in our order."""
        return [self._taken(tensor, torch.tensor(self.order)) for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        """Select our features in their order."""
        return [self._taken(tensor, torch.tensor(self.order).argsort()) for tensor in tensors]

    def _taken(self, tensor: Tensor, order: Tensor) -> Tensor:
        for dim in self.dims:
            tensor = tensor.index_select(dim, order.to(tensor.device))
        return tensor


@dataclass(frozen=True)
class FoldFactor:
    """Moves a factor that only one of the two implementations applies into the weight."""

    factor: float

    def forward(self, tensors: Tensors) -> Tensors:
        """Multiply by the factor."""
        return [tensor * self.factor for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        """Divide by the factor."""
        return [tensor / self.factor for tensor in tensors]


@dataclass(frozen=True)
class FoldEqual:
    """Replaces two equal tensors of theirs by one of ours.

    Thus a gated network with gate = up is our squared ReLU: relu(x W) * (x W) = relu(x W)^2.
    """

    def forward(self, tensors: Tensors) -> Tensors:
        """Return the first of two equal tensors.

        Raises:
            ValueError: the tensors differ.
        """
        first, second = tensors
        if not torch.equal(first, second):
            raise ValueError("two tensors that should be equal differ")
        return [first]

    def backward(self, tensors: Tensors) -> Tensors:
        """Duplicate the tensor."""
        (one,) = tensors
        return [one, one.clone()]


@dataclass(frozen=True)
class FoldZero:
    """Removes a tensor of theirs that is zero, such as a bias that our model does not have."""

    shape: Sequence[int]

    def forward(self, tensors: Tensors) -> Tensors:
        """Return nothing for a tensor of zeros.

        Raises:
            ValueError: it is not zero.
        """
        (tensor,) = tensors
        if tensor.any():
            raise ValueError("a bias that must be zero is not")
        return []

    def backward(self, tensors: Tensors) -> Tensors:
        """Return the zeros."""
        return [torch.zeros(*self.shape)]


@dataclass(frozen=True)
class FoldOffset:
    """Drops leading rows of their position table, the first tensor, that no token uses."""

    n_rows: int

    def forward(self, tensors: Tensors) -> Tensors:
        """Remove the leading rows."""
        table, *others = tensors
        return [table[self.n_rows :], *others]

    def backward(self, tensors: Tensors) -> Tensors:
        """Prepend rows of zeros."""
        table, *others = tensors
        return [torch.cat([table.new_zeros(self.n_rows, table.shape[1]), table]), *others]


@dataclass(frozen=True)
class FoldTypeZero:
    """Moves the vector of their token type 0, which is added to every token, into the position table.

    Our type 0 adds nothing. The vector is therefore added to the position table, of which every token gets
    one row too, and subtracted from the other types. In the token embedding it would affect the logits of a
    tied head.
    """

    def forward(self, tensors: Tensors) -> Tensors:
        """Convert positions and types to positions with type 0 and, if there are others, types without it."""
        positions, types = tensors
        others = [types[1:] - types[0]] if len(types) > 1 else []
        return [positions + types[0], *others]

    def backward(self, tensors: Tensors) -> Tensors:
        """Prepend a type 0 of zeros."""
        positions, *types = tensors
        zero = positions.new_zeros(1, positions.shape[1])
        return [positions, torch.cat([zero, *types])]


@dataclass(frozen=True)
class FoldTable:
    """Subtracts a fixed table from their position table."""

    fixed: Tensor

    def forward(self, tensors: Tensors) -> Tensors:
        """Subtract the fixed table."""
        return [tensor - self.fixed.to(tensor) for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        """Add the fixed table."""
        return [tensor + self.fixed.to(tensor) for tensor in tensors]


@dataclass(frozen=True)
class Reshape:
    """Reshapes a tensor."""

    theirs: Sequence[int]
    ours: Sequence[int]

    def forward(self, tensors: Tensors) -> Tensors:
        """Reshape to our shape."""
        return [tensor.reshape(*self.ours) for tensor in tensors]

    def backward(self, tensors: Tensors) -> Tensors:
        """Reshape to their shape."""
        return [tensor.reshape(*self.theirs) for tensor in tensors]
