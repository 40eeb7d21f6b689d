"""Measure what the hardware computes fast, because processor names and flags do not say."""

import time
from functools import cache

import torch
from torch import Tensor

#: The size of the timed matrix products: with 256, two threads wait as long as AMX units multiply.
PROBE_SIZE = 512
PROBE_ROUNDS = 5
#: Seconds after which no further round begins: one product takes 0.1 s if bfloat16 is emulated.
PROBE_SECONDS = 0.2
#: The speedup over float32 from which bfloat16 is worth its casts.
WORTH_IT = 1.5


def multiplies_bf16_fast(device: torch.device) -> bool:
    """Return whether matrix products on `device` are much faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bf16_speedup_on_cpu() >= WORTH_IT


@cache
def bf16_speedup_on_cpu() -> float:
    """Return the speedup of bfloat16 over float32 for matrix products on this CPU; measured once per process.

    The two types alternate, and the fastest of several products counts, so that other load on the machine has
    little effect. Without hardware support, bfloat16 is emulated, at 1/40 of the speed or less.
    """
    left = torch.linspace(-1, 1, PROBE_SIZE**2).reshape(PROBE_SIZE, PROBE_SIZE)
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(PROBE_ROUNDS + 1):  # the first round compiles the kernel
        for dtype, measured in seconds.items():
            measured.append(_seconds_of_product(left.to(dtype)))
        if len(seconds[torch.float32]) > 1 and sum(map(sum, seconds.values())) > PROBE_SECONDS:
            break
    return min(seconds[torch.float32][1:]) / min(seconds[torch.bfloat16][1:])


def _seconds_of_product(matrix: Tensor) -> float:
    began = time.perf_counter()
    torch.mm(matrix, matrix)
    return time.perf_counter() - began
