"""Train a peer until some seconds after the start of its process, and print its loss on held-out rows.

    python -m benchmarks.peers.timed plain FOLDER STARTED 600 fp32

`STARTED` is the time at which the process was started, in seconds since 1970. `FOLDER` has `shape.json` and
the arrays `train_ids.npy`, `train_labels.npy`, `held_out_ids.npy` and `held_out_labels.npy` (N, T), where
labels of -100 are not predicted. The last line of standard output is JSON: the steps, the mean loss in nats
per label, and the seconds until training ended. A peer's packages are imported when it is chosen, because
litgpt has an environment of its own.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.shapes import Shape

#: The learning rate of AdamW, with a linear warm-up and a cosine to a tenth of it, over the time.
RATE, WARMUP_FRACTION, FINAL_RATIO = 1e-3, 0.02, 0.1

Pair = tuple[Tensor, Tensor]


class Clock:
    """The time since the start of the process, and the learning rate at each time."""

    def __init__(self, started: float, seconds: float) -> None:
        self._started, self._seconds = started, seconds

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.time() - self._started

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return self.elapsed_s >= self._seconds

    def rate_factor(self) -> float:
        """Return the factor of the learning rate at this time."""
        part = min(self.elapsed_s / self._seconds, 1.0)
        cosine = FINAL_RATIO + (1 - FINAL_RATIO) * (1 + math.cos(math.pi * part)) / 2
        return cosine * min(part / WARMUP_FRACTION, 1.0)


@dataclass(frozen=True)
class Rows:
    """Rows of token ids (N, T) and their labels (N, T)."""

    ids: Any
    labels: Any

    @classmethod
    def load(cls, folder: Path, split: str) -> "Rows":
        """Map the arrays of a split into memory."""
        return cls(*(np.load(folder / f"{split}_{part}.npy", mmap_mode="r") for part in ("ids", "labels")))

    def take(self, numbers: Any) -> Pair:
        """Return the ids and labels of these rows."""
        return tuple(torch.from_numpy(part[numbers].astype(np.int64)) for part in (self.ids, self.labels))  # type: ignore[return-value]

    def batches(self, size: int, seed: int = 0) -> Iterator[Pair]:
        """Yield batches in random order, epoch after epoch."""
        numbers = np.random.default_rng(seed)
        while True:
            order = numbers.permutation(len(self.ids))
            for first in range(0, len(order) - size + 1, size):
                yield self.take(np.sort(order[first : first + size]))


#: A trained model as a function from ids (B, T) to logits (B, T, V), and the number of its steps.
Trained = tuple[Callable[[Tensor], Tensor], int]


def plain(shape: Shape, rows: Rows, clock: Clock, *, bf16: bool) -> Trained:
    """Train the loop like nanoGPT's."""
    from benchmarks.peers.plain import PlainLoop

    loop = PlainLoop(shape, bf16=bf16, device=torch.device("cpu"))
    n_steps = 0
    for ids, labels in rows.batches(shape.batch):
        if clock.is_over:
            break
        _set_rate(loop.optimizer, clock)
        loop.step(ids, labels)
        n_steps += 1
    return loop.model.logits, n_steps


def trainer(shape: Shape, rows: Rows, clock: Clock, *, bf16: bool) -> Trained:
    """Train GPT-2 of `transformers` with its Trainer."""
    from benchmarks.peers.trainer_until import train_until

    model, n_steps = train_until(shape, rows, clock, bf16=bf16, rate=RATE)
    return lambda ids: model(input_ids=ids).logits, n_steps


def litgpt(shape: Shape, rows: Rows, clock: Clock, *, bf16: bool) -> Trained:
    """Train litgpt's model with the body of its loop."""
    from benchmarks.peers.litgpt_loop import build, step

    fabric, model, optimizer = build(asdict(shape), "bf16-mixed" if bf16 else "32-true")
    n_steps = 0
    for ids, labels in rows.batches(shape.batch):
        if clock.is_over:
            break
        _set_rate(optimizer, clock)
        step(fabric, model, optimizer, ids, labels)
        n_steps += 1
    return model, n_steps


PEERS = {"plain": plain, "trainer": trainer, "litgpt": litgpt}


def main(name: str, folder: str, started: str, seconds: str, precision: str) -> None:
    """Train, evaluate, and print one line of JSON."""
    clock, place = Clock(float(started), float(seconds)), Path(folder)
    shape = Shape(**json.loads((place / "shape.json").read_text(encoding="utf-8")))
    torch.manual_seed(0)
    logits, n_steps = PEERS[name](shape, Rows.load(place, "train"), clock, bf16=precision == "bf16")
    elapsed_s = clock.elapsed_s
    loss = held_out_loss(logits, Rows.load(place, "held_out"), shape.batch)
    print(json.dumps({"steps": n_steps, "loss": loss, "trained_until_s": round(elapsed_s, 1)}))


@torch.no_grad()
def held_out_loss(logits: Callable[[Tensor], Tensor], rows: Rows, batch_size: int) -> float:
    """Return the mean loss over all labels, in float32."""
    nats, n_labels = 0.0, 0
    for first in range(0, len(rows.ids), batch_size):
        ids, labels = rows.take(slice(first, first + batch_size))
        nats += float(F.cross_entropy(logits(ids).flatten(0, 1).float(), labels.flatten(), reduction="sum"))
        n_labels += int((labels != -100).sum())
    return nats / n_labels


def _set_rate(optimizer: torch.optim.Optimizer, clock: Clock) -> None:
    for group in optimizer.param_groups:
        group["lr"] = RATE * clock.rate_factor()


if __name__ == "__main__":
    main(*sys.argv[1:])
