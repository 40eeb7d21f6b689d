"""Loops that take turns, and what is told of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.peers.plain import PlainLoop
from benchmarks.peers.process import LITGPT, LitgptLoop
from benchmarks.peers.trainer import TrainerLoop
from benchmarks.shapes import Shape
from benchmarks.speed import ratio, spread
from benchmarks.training import Training

#: Seconds of a turn of one loop, about: whole steps are made.
TURN_S = 4.0
N_WARMUP_STEPS = 2

#: Makes so many steps and says how many seconds they took.
Loop = Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement: ours beside one peer, as rates (more is better) and as a ratio within each turn."""

    what: str
    peer: str
    unit: str
    ours: dict[str, float]
    theirs: dict[str, float]
    ratio: dict[str, float]
    more: dict[str, Any] = field(default_factory=dict)


def compare(
    what: str, loops: Mapping[str, Loop], *, amount: float, unit: str, n_turns: int, more: Mapping[str, Any]
) -> list[Row]:
    """A row for each loop after the first, which is ours.

    Args:
        amount: what a step does, in the unit of the rates: tokens, rows, megabytes.
    """
    n_steps = {
        name: max(1, round(TURN_S * N_WARMUP_STEPS / run(N_WARMUP_STEPS))) for name, run in loops.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(n_turns):
        for name, run in loops.items():
            rates[name].append(amount * n_steps[name] / run(n_steps[name]))
    ours, *peers = loops
    return [
        Row(
            what=what,
            peer=peer,
            unit=unit,
            ours=spread(rates[ours], digits=1),
            theirs=spread(rates[peer], digits=1),
            ratio=ratio(rates[ours], rates[peer]),
            more=dict(more),
        )
        for peer in peers
    ]


def training(name: str, shape: Shape, machine: Mapping[str, Any], n_turns: int) -> list[Row]:
    """Training of one shape by all loops that there are here."""
    with loops_of(shape, bf16=machine["precision"] == "bf16") as loops:
        rows = compare(
            f"train {name}", loops, amount=shape.tokens, unit="tokens/s", n_turns=n_turns, more=asdict(shape)
        )
    for row in rows:
        reached = row.ours["median"] * shape.flops / shape.tokens / (machine["gflops"] * 1e9)
        row.more["share"] = round(reached, 3)
    return rows


@contextmanager
def loops_of(shape: Shape, *, bf16: bool) -> Iterator[dict[str, Loop]]:
    """Ours, with both optimizers, and the peers."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        loops: dict[str, Loop] = {
            "ours": _ours(shape, folder / "ours", []),
            "ours, adamw": _ours(shape, folder / "adamw", ["optimizer=adamw"]),
            "plain loop": PlainLoop(shape, bf16=bf16, device=device).run,
            "Trainer": TrainerLoop(shape, bf16=bf16, device=device, folder=folder / "trainer").run,
        }
        if LITGPT.exists():
            loops["litgpt"] = stack.enter_context(LitgptLoop(shape, bf16=bf16)).run
        yield loops


def _ours(shape: Shape, folder: Path, overrides: list[str]) -> Loop:
    made = Training(
        [*shape.overrides(), *overrides, "trainer.precision=auto"],
        document_tokens=16 * shape.block,  # as in a text: most rows hold a part of one document
        max_steps=10_000,
    )

    def run(n_steps: int) -> float:
        with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
            return made.run_in_lightning(
                n_steps, n_warmup_steps=N_WARMUP_STEPS, folder=folder, stream=nowhere
            ).seconds

    return run
