"""Measure loops in alternation, and compare their rates."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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

#: The approximate duration of a turn of one loop, in seconds; it consists of whole steps.
TURN_S = 2.5
#: The turns of each loop, unless another number is asked for.
N_TURNS = 3
#: The seconds after which no further turn begins then.
TURNS_S = 40.0

#: Makes a number of steps and returns the seconds that they took.
Loop = Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A comparison of Prelude with a peer: rates (higher is better), and the ratio within each turn."""

    what: str
    peer: str
    unit: str
    ours: dict[str, float]
    theirs: dict[str, float]
    ratio: dict[str, float]
    more: dict[str, Any] = field(default_factory=dict)


def compare(
    what: str,
    loops: Mapping[str, Loop],
    *,
    amount: float,
    unit: str,
    n_turns: int | None,
    more: Mapping[str, Any],
    n_warmup_steps: int = 2,
) -> list[Row]:
    """Return a row for each loop after the first, which is Prelude's.

    Args:
        amount: the amount of work per step, in the unit of the rates: tokens, rows or megabytes.
        n_turns: the number of turns; None: `N_TURNS`, or fewer if they take long.
        n_warmup_steps: steps of each loop before the turns, from which their length is chosen.
    """
    rates = measure_rates(loops, amount, n_turns, n_warmup_steps=n_warmup_steps)
    ours, *peers = loops
    return [as_row(rates, ours, peer, what=what, unit=unit, more=more) for peer in peers]


def measure_rates(
    loops: Mapping[str, Loop], amount: float, n_turns: int | None, *, n_warmup_steps: int = 2
) -> dict[str, list[float]]:
    """Run the loops in turns; return the rates of each, where a step does `amount` of work."""
    n_steps = {
        name: max(1, round(TURN_S * n_warmup_steps / run(n_warmup_steps))) for name, run in loops.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    started = time.perf_counter()
    for turn in range(n_turns or N_TURNS):
        if n_turns is None and turn and time.perf_counter() - started > TURNS_S:
            break
        for name, run in loops.items():
            rates[name].append(amount * n_steps[name] / run(n_steps[name]))
    return rates


def as_row(
    rates: Mapping[str, Sequence[float]],
    ours: str,
    peer: str,
    *,
    what: str,
    unit: str,
    more: Mapping[str, Any],
) -> Row:
    """Return the row of two of the loops."""
    return Row(
        what=what,
        peer=peer,
        unit=unit,
        ours=spread(rates[ours], digits=1),
        theirs=spread(rates[peer], digits=1),
        ratio=ratio(rates[ours], rates[peer]),
        more={**more, "turns": len(rates[ours])},
    )


def training(name: str, shape: Shape, machine: Mapping[str, Any], n_turns: int | None) -> list[Row]:
    """Measure training of one shape with all installed loops."""
    with loops_of(shape, bf16=machine["precision"] == "bf16") as loops:
        rows = compare(
            f"train {name}", loops, amount=shape.tokens, unit="tokens/s", n_turns=n_turns, more=asdict(shape),
            n_warmup_steps=shape.n_warmup_steps,
        )  # fmt: skip
    for row in rows:
        reached = row.ours["median"] * shape.flops / shape.tokens / (machine["gflops"] * 1e9)
        row.more["share"] = round(reached, 3)
    return rows


@contextmanager
def loops_of(shape: Shape, *, bf16: bool) -> Iterator[dict[str, Loop]]:
    """Create the loops of the peers and of Prelude: also with AdamW, and not compiled if it is compiled."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        ours = our_training(shape, [])
        # It is measured once whether compiled layers are faster.
        with_adamw = our_training(shape, ["optimizer=adamw", f"trainer.compile={ours.options.compile}"])
        loops: dict[str, Loop] = {
            "ours": our_loop(ours, shape, folder / "ours"),
            "ours, adamw": our_loop(with_adamw, shape, folder / "adamw"),
        }
        if ours.options.compile is True:
            eager = our_training(shape, ["trainer.compile=false"])
            loops["ours, not compiled"] = our_loop(eager, shape, folder / "eager")
        loops |= {
            "plain loop": PlainLoop(shape, bf16=bf16, device=device).run,
            "Trainer": TrainerLoop(shape, bf16=bf16, device=device, folder=folder / "trainer").run,
        }
        if LITGPT.exists():
            loops["litgpt"] = stack.enter_context(LitgptLoop(shape, bf16=bf16)).run
        yield loops


def our_training(shape: Shape, overrides: list[str]) -> Training:
    """Return the training of Prelude with a shape, as in a long run."""
    return Training(
        [*shape.overrides(), *overrides, "trainer.precision=auto"],
        document_tokens=16 * shape.block,  # as in long texts: most rows contain a part of a single document
        max_steps=100_000,  # a run of minutes would not compile its layers, as litgpt does
    )


def our_loop(training: Training, shape: Shape, folder: Path) -> Loop:
    """Return the loop of a training through Lightning, with all callbacks and logging in `folder`."""

    def run(n_steps: int) -> float:
        with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
            return training.run_in_lightning(
                n_steps, n_warmup_steps=shape.n_warmup_steps, folder=folder, stream=nowhere
            ).seconds

    return run
