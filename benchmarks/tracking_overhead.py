"""Measure what tracking costs a training step, compared with the same steps without it.

    python -m benchmarks.tracking_overhead
    python -m benchmarks.tracking_overhead --steps 40 --turns 20 --overrides "size=small"

In a training on random rows, tracking is switched on and off in blocks of some steps. When it is on, metrics
go to the spool, and the writer process sends them to a SQLite store and samples system metrics. When it is
off, nothing is logged, and the writer is stopped (SIGSTOP). The blocks alternate within seconds, so that
other load on the machine affects both equally, and a ratio is computed within each turn.

The results, with 95 % bootstrap intervals of the median over the turns, are `step`, the ratio of median step
times, and `cpu`, the ratio of processor times of the training process. Two further results are not affected
by other load: `call_share`, the fraction of the tracked steps' time spent in calls of tracking, and
`writer_share`, the processor time of the writer divided by the time of the tracked steps, in cores, which is
what a step can lose if no core is free. `writer_start_cpu_s` is the processor time for importing MLflow, once
per writer. `load` is the load of the machine at the beginning and at the end; above the number of cores,
other programs were running.

Standard output has one line of JSON. OMP_NUM_THREADS sets the threads.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from benchmarks.arguments import count
from pipeline.errors import UserError

if TYPE_CHECKING:  # torch and Lightning take seconds to import, and --help must not wait for them
    from benchmarks.tracking_training import Steps, TimedRun

#: Untimed steps at the beginning, in which memory is allocated and kernels are selected.
N_WARMUP_STEPS = 3
N_RESAMPLES = 2000
_START_LIMIT_S = 120.0


class Switch:
    """Turns tracking on and off, and counts the writer's processor time while it is on."""

    def __init__(self, run: "TimedRun") -> None:
        self._run = run
        (self._writer,) = (
            child for child in psutil.Process().children() if "pipeline.tracking.writer" in child.cmdline()
        )
        self.start_cpu_s = self.cpu_s

    @property
    def cpu_s(self) -> float:
        """The processor time of the writer so far."""
        times = self._writer.cpu_times()
        return float(times.user + times.system)

    def turn(self, on: bool) -> None:
        """Resume or pause tracking."""
        self._run.on = on
        self._writer.send_signal(signal.SIGCONT if on else signal.SIGSTOP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one line of JSON, and return the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        found = measure(shlex.split(parsed.overrides), n_steps=parsed.steps, n_turns=parsed.turns)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found))
    return 0


def measure(overrides: Sequence[str], *, n_steps: int, n_turns: int) -> dict[str, Any]:
    """Return the ratios of tracked to untracked steps.

    Raises:
        UserError: if an override is wrong.
    """
    from benchmarks.tracking_training import TimedRun, TrackedTraining
    from pipeline.tracking import RunCard, TrackingOptions, start_run

    load, started = os.getloadavg(), time.monotonic()
    order = tracked_blocks(n_turns)
    n_all = N_WARMUP_STEPS + len(order) * n_steps
    training = TrackedTraining(overrides, document_tokens=150, max_steps=n_all)
    with TemporaryDirectory() as name:
        options = TrackingOptions(uri=f"sqlite:///{name}/mlflow.db", end_wait_s=60.0)
        card = RunCard(stage="pretrain", name="overhead", config={}, seed=1)
        place = Path(name)
        with start_run(card, options=options, run_folder=place / "run", project_folder=place) as run:
            run.wait_until_known(_START_LIMIT_S)
            timed = TimedRun(run)
            switch = Switch(timed)
            at = {N_WARMUP_STEPS + i * n_steps: lambda on=on: switch.turn(on) for i, on in enumerate(order)}
            steps = training.run_tracked(n_all, timed, folder=place / "checkpoints", at=at)
            switch.turn(True)
            writer_s = switch.cpu_s - switch.start_cpu_s
    return {
        "benchmark": "tracking_overhead",
        "overrides": " ".join(overrides),
        "steps": n_steps,
        "turns": n_turns,
        **figures(steps, order, n_steps),
        **shares(steps, order, n_steps, calls_s=timed.calls_s, writer_s=writer_s),
        "writer_start_cpu_s": round(switch.start_cpu_s, 2),
        "load": [round(load[0], 2), round(os.getloadavg()[0], 2)],
        "cores": os.cpu_count(),
        "seconds": round(time.monotonic() - started, 1),
    }


def tracked_blocks(n_turns: int) -> list[bool]:
    """Return whether each block of steps is tracked: on off, off on, on off, ..."""
    return [tracked for turn in range(n_turns) for tracked in ((True, False) if turn % 2 else (False, True))]


def figures(steps: "Steps", order: Sequence[bool], n_steps: int) -> dict[str, Any]:
    """Return the ratios of the two blocks of each turn."""
    wall, cpu = (blocks(values, len(order), n_steps) for values in steps)
    return {
        "step": interval(_ratios([median(block) for block in wall], order)),
        "cpu": interval(_ratios([sum(block) for block in cpu], order)),
        "step_ms": round(1000 * median(s for block in wall for s in block), 1),
    }


def shares(
    steps: "Steps", order: Sequence[bool], n_steps: int, *, calls_s: Sequence[float], writer_s: float
) -> dict[str, float]:
    """Return the time of tracking itself, as fractions of the time of the tracked steps."""
    wall = blocks(steps.wall_s, len(order), n_steps)
    tracked_s = sum(sum(block) for block, on in zip(wall, order, strict=True) if on)
    return {
        "call_share": round(sum(calls_s) / tracked_s, 6),
        "longest_call_ms": round(1000 * max(calls_s), 2),
        "writer_share": round(writer_s / tracked_s, 4),
    }


def blocks(values: Sequence[float], n_blocks: int, n_steps: int) -> list[Sequence[float]]:
    """Return the values of each block; `values` begin with the second step."""
    first = N_WARMUP_STEPS - 1
    return [values[first + i * n_steps : first + (i + 1) * n_steps] for i in range(n_blocks)]


def _ratios(values: Sequence[float], order: Sequence[bool]) -> list[float]:
    pairs = zip(values[::2], values[1::2], order[::2], strict=True)
    return [
        first / second if first_is_tracked else second / first for first, second, first_is_tracked in pairs
    ]


def interval(values: Sequence[float]) -> dict[str, float]:
    """Return the median, with its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).choice(values, (N_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return {"median": round(median(values), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tracking_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--overrides", default="", metavar='"KEY=VALUE ..."', help="changes to the configuration"
    )
    parser.add_argument("--steps", type=count, default=20, help="steps of each block (20)")
    parser.add_argument("--turns", type=count, default=12, help="turns, each of two blocks (12)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
