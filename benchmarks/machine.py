"""Describe the machine of a measurement."""

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from modules.hardware import multiplies_bf16_fast

#: The size of the matrices whose products measure the machine's rate, and the duration of the measurement.
SIZE_CPU, SIZE_GPU = 1024, 8192
RATE_S = 1.0


def describe() -> dict[str, Any]:
    """Return the device, threads, precision, and measured matrix rate, as plain values."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = multiplies_bf16_fast(device)
    return {
        "device": _name(device),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "precision": "bf16" if bf16 else "fp32",
        "gflops": round(matrix_rate(device, torch.bfloat16 if bf16 else torch.float32) / 1e9, 1),
        "torch": torch.__version__,
    }


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure operations per second of large matrix products: the best rate within about a second."""
    size = SIZE_GPU if device.type == "cuda" else SIZE_CPU
    left = torch.rand(size, size, device=device, dtype=dtype)
    best, ends = 0.0, time.perf_counter() + RATE_S
    while time.perf_counter() < ends:
        started = time.perf_counter()
        torch.mm(left, left)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
