"""Time a few steps of the configured training on this machine."""

import time
from dataclasses import dataclass

import torch

from modules.init import initialize
from modules.model import Model
from modules.optim import LearningRates
from modules.recompute import Recompute
from modules.transformer import Transformer, set_recompute
from pipeline.config.construct import construct
from pipeline.config.model import build_head
from pipeline.estimate.trace import Step
from pipeline.machine.devices import autocast_dtype

#: The time in seconds after which no further step is started.
LONGEST_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The number of timed steps, and the median seconds per step without the first."""

    n_steps: int
    step_s: float


def probe(
    step: Step, *, n_rows: int, accumulate: int, recompute: Recompute, n_steps: int, device: torch.device
) -> Probe:
    """Time up to `n_steps` steps on random rows, or fewer if they are slow.

    The first step compiles kernels and does not count, unless it is the only one.
    """
    backbone = construct(step.model["backbone"], Transformer, vocab_size=step.vocab_size)
    model = Model(backbone, build_head(step.model["head"], backbone))
    initialize(model, step.model.get("init", "default"))
    model.to(device)
    set_recompute(model, recompute)
    optimizer = construct(step.optimizer, LearningRates).build(model)
    batch = {key: value.to(device) for key, value in step.batch(n_rows).items()}
    dtype = autocast_dtype(step.precision)
    autocast = torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < n_steps + 1 and (len(seconds) < 2 or time.perf_counter() - began < LONGEST_S):
        start = time.perf_counter()
        optimizer.zero_grad()
        for _ in range(accumulate):
            with autocast:
                total, n_tokens = step.loss(model, batch)
            torch.autograd.backward(total / n_tokens / accumulate)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    timed = sorted(seconds[1:] or seconds)
    return Probe(n_steps=len(timed), step_s=timed[len(timed) // 2])
