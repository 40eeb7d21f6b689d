"""Measure what the machine does fast, because processor names and flags do not tell."""

import time
from functools import cache

import torch
from torch import Tensor

#: Rows and columns of the products that are timed: large enough to tell, and emulated bf16 still takes 0.1 s.
PROBE_SIZE = 256
PROBE_ROUNDS = 5
#: bfloat16 is worth its casts when a product is at least so many times as fast as in float32.
WORTH_IT = 1.5


def multiplies_bf16_fast(device: torch.device) -> bool:
    """Whether matrix products on `device` are much faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bf16_speedup_on_cpu() >= WORTH_IT


@cache
def bf16_speedup_on_cpu() -> float:
    """How many times as fast as in float32 this CPU multiplies in bfloat16; measured once in a process.

    The two types take turns and the fastest of several products counts, so that a busy machine answers as an
    idle one does. Without instructions for it, bfloat16 is emulated: 1/40 and less was seen.
    """
    left = torch.linspace(-1, 1, PROBE_SIZE**2).reshape(PROBE_SIZE, PROBE_SIZE)
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(PROBE_ROUNDS + 1):  # the first one builds the kernel
        for dtype, taken in seconds.items():
            taken.append(_seconds_of_product(left.to(dtype)))
    return min(seconds[torch.float32][1:]) / min(seconds[torch.bfloat16][1:])


def _seconds_of_product(matrix: Tensor) -> float:
    began = time.perf_counter()
    torch.mm(matrix, matrix)
    return time.perf_counter() - began
