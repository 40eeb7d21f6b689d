"""Dropout that needs few random numbers on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Values of 16 random bits.
_N_VALUES = 2**16


class Dropout(nn.Dropout):
    """`drop` as a module; with a probability of 0, and in evaluation, it returns its input itself."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the input with elements dropped."""
        return drop(x, self.p) if self.training and self.p else x


def drop(x: Tensor, p: float) -> Tensor:
    """Set elements to 0 with probability `p`, from 0 to less than 1, and divide the others by 1 - p.

    `F.dropout` draws 64 random bits for each element on a CPU of AMD, which takes a sixth of a fine-tuning
    step (docs/log.md). Here an element takes 16 bits, so that the probability is a multiple of 1 / 65,536:
    its rounding error is below 0.00001. On other devices, and compiled, this is `F.dropout`.

    Source: Srivastava et al. 2014, section 4.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    n_dropping = min(round(p * _N_VALUES), _N_VALUES - 1)  # values of the 16 bits that drop an element
    drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = drawn.view(torch.int16)[: x.numel()].view(x.shape)  # each from -32,768 to 32,767
    scale = torch.empty_like(x, memory_format=torch.contiguous_format, requires_grad=False)
    torch.ge(bits, n_dropping - _N_VALUES // 2, out=scale)  # 1 for kept elements, 0 for dropped ones
    return x * scale.mul_(_N_VALUES / (_N_VALUES - n_dropping))
