"""Measure what an outage of the MLflow server costs training, and whether all points are stored afterwards.

    python -m benchmarks.tracking_outage
    python -m benchmarks.tracking_outage --steps 400 --pause 60 --turns 3 --overrides "size=small"

In each turn, the same training runs four times on the same random rows, each with a separate MLflow server:
without a fault; with the server killed; with the server paused (SIGSTOP) for some seconds; and with the
server returning errors (500) until the end. The fault begins after a quarter of the steps. Every other turn
uses the reverse order. After each run, the server is restored, and the rest of the spool is sent as by `make
sync`.

For each fault, the results are `total` and `step`, the ratios of training times and of median step times to
the run without a fault (median, lowest, highest); `cpu`, the ratio of processor times of the training
process; `call_share`, the fraction of the training time that steps waited for tracking, which other load does
not affect; `longest_step_ms` and `longest_call_ms`, the longest step and the longest wait for tracking;
`end_s`, the duration of the end of the run; `n_left`, the records left for `make sync`; and `equal`, whether
the store then has each point of the spool exactly once, with its step and time, and the same losses as the
run without a fault. `load` is the load of the machine at the beginning and at the end.

Standard output has one line of JSON. OMP_NUM_THREADS sets the threads.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from subprocess import Popen
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.arguments import count
from benchmarks.tracking_proxy import Proxy, free_port, running_proxy
from pipeline.errors import UserError

if TYPE_CHECKING:  # torch and Lightning take seconds to import, and --help must not wait for them
    from benchmarks.tracking_training import Steps

FAULTS = ("undisturbed", "killed", "paused", "500s")

#: Step -> value, for each curve that depends only on the training.
Losses = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one training: its times, and whether the store is complete."""

    steps: "Steps"
    calls_s: list[float]
    end_s: float
    n_left: int
    whole: bool
    losses: Losses


@dataclass
class Server:
    """A server process, the proxy in front of it, and a function that restarts it."""

    process: Popen[bytes]
    proxy: Proxy
    restart: Callable[[], None]

    def strike(self, fault: str, pause_s: float) -> None:
        """Begin the fault."""
        if fault == "killed":
            os.killpg(self.process.pid, signal.SIGKILL)
        elif fault == "paused":
            os.killpg(self.process.pid, signal.SIGSTOP)
            wake = threading.Timer(pause_s, os.killpg, (self.process.pid, signal.SIGCONT))
            wake.daemon = True
            wake.start()
        elif fault == "500s":
            self.proxy.mode = "refusing"

    def heal(self, fault: str) -> None:
        """End the fault."""
        self.proxy.mode = "honest"
        if fault == "killed":
            self.process.wait()
            self.restart()
        elif fault == "paused":
            os.killpg(self.process.pid, signal.SIGCONT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one line of JSON, and return the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        found = measure(
            shlex.split(parsed.overrides), n_steps=parsed.steps, n_turns=parsed.turns, pause_s=parsed.pause
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found))
    return 0


def measure(overrides: Sequence[str], *, n_steps: int, n_turns: int, pause_s: float) -> dict[str, Any]:
    """Return the results of each fault.

    Raises:
        UserError: if an override is wrong.
    """
    load, started = os.getloadavg(), time.monotonic()
    turns = []
    for turn in range(n_turns):
        order = FAULTS if turn % 2 == 0 else FAULTS[::-1]
        turns.append({fault: run(fault, overrides, n_steps=n_steps, pause_s=pause_s) for fault in order})
    return {
        "benchmark": "tracking_outage",
        "overrides": " ".join(overrides),
        "steps": n_steps,
        "turns": n_turns,
        "pause_s": pause_s,
        "training_s": round(median(sum(turn["undisturbed"].steps.wall_s) for turn in turns), 1),
        "faults": {
            fault: figures([(turn[fault], turn["undisturbed"]) for turn in turns]) for fault in FAULTS
        },
        "load": [round(load[0], 2), round(os.getloadavg()[0], 2)],
        "cores": os.cpu_count(),
        "seconds": round(time.monotonic() - started, 1),
    }


def figures(pairs: Sequence[tuple[Outcome, Outcome]]) -> dict[str, Any]:
    """Return the effects of a fault, compared with the run without a fault in each turn."""
    return {
        "total": spread([sum(a.steps.wall_s) / sum(b.steps.wall_s) for a, b in pairs]),
        "step": spread([median(a.steps.wall_s) / median(b.steps.wall_s) for a, b in pairs]),
        "cpu": spread([sum(a.steps.cpu_s) / sum(b.steps.cpu_s) for a, b in pairs]),
        "call_share": spread([sum(a.calls_s) / sum(a.steps.wall_s) for a, _ in pairs]),
        "longest_step_ms": round(1000 * max(max(a.steps.wall_s) for a, _ in pairs)),
        "longest_call_ms": round(1000 * max(max(a.calls_s) for a, _ in pairs), 2),
        "end_s": round(max(a.end_s for a, _ in pairs), 1),
        "n_left": max(a.n_left for a, _ in pairs),
        "equal": all(a.whole and a.losses == b.losses for a, b in pairs),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, lowest and highest value."""
    return {"median": round(median(values), 5), "low": round(min(values), 5), "high": round(max(values), 5)}


def run(fault: str, overrides: Sequence[str], *, n_steps: int, pause_s: float) -> Outcome:
    """Train with a fault, and send the rest of the spool afterwards."""
    from benchmarks.tracking_training import TimedRun, TrackedTraining
    from pipeline.tracking import RunCard, TrackingOptions, start_run
    from pipeline.tracking.spool import Progress, count_unsent

    training = TrackedTraining(overrides, document_tokens=150, max_steps=n_steps)
    with TemporaryDirectory() as name, running_server(Path(name)) as server:
        folder = Path(name) / "run"
        options = TrackingOptions(uri=server.proxy.uri)
        card = RunCard(stage="pretrain", name=fault, config={}, seed=1)
        tracked = start_run(card, options=options, run_folder=folder, project_folder=Path(name))
        strike = {max(1, n_steps // 4): lambda: server.strike(fault, pause_s)}
        timed = TimedRun(tracked)
        steps = training.run_tracked(n_steps, timed, folder=folder / "checkpoints", at=strike)
        begun = time.monotonic()
        tracked.end("FINISHED")
        end_s = time.monotonic() - begun
        n_left = count_unsent(folder / "tracking", Progress.load(folder / "tracking"))
        server.heal(fault)
        run_id = send_rest(folder)
        whole, losses = compare(folder, server.proxy.uri, run_id)
    return Outcome(steps=steps, calls_s=timed.calls_s, end_s=end_s, n_left=n_left, whole=whole, losses=losses)


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """Run a new MLflow server with a proxy in front of it."""
    from contextlib import ExitStack

    from pipeline.tracking import ui
    from pipeline.tracking.options import Store

    store, port = Store(f"sqlite:///{folder}/mlflow.db", folder / "mlartifacts"), free_port()

    def start() -> "Popen[bytes]":
        return kept.enter_context(ui.running_server(store, port=port, environ=os.environ))

    def restart() -> None:
        server.process = start()

    with ExitStack() as kept:
        process = start()
        server = Server(process, kept.enter_context(running_proxy(port)), restart)
        yield server


def send_rest(run_folder: Path, limit_s: float = 180.0) -> str:
    """Send the rest of the spool as by `make sync`, and return the id of the run in the store."""
    from pipeline.tracking import RunStillSent, sync

    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            report = sync(run_folder, environ=os.environ)
        except RunStillSent:
            continue  # after waiting for half a second
        if not report.n_left and report.run_id is not None:
            return report.run_id
    raise TimeoutError(f"the spool of {run_folder} could not be sent within {limit_s} s")


def compare(run_folder: Path, uri: str, run_id: str) -> tuple[bool, Losses]:
    """Return whether the store has each point of the spool exactly once, and its losses."""
    from pipeline.tracking.options import Store
    from pipeline.tracking.spool import POINTS, SYSTEM, lane_file, read_records
    from pipeline.tracking.store import open_client

    spooled: dict[str, list[tuple[int, int, float]]] = {}
    for lane in (POINTS, SYSTEM):
        for record, _ in read_records(lane_file(run_folder / "tracking", lane), 0):
            if record is not None and record["kind"] == "metrics":
                for key, value in record["values"].items():
                    spooled.setdefault(key, []).append((record["step"], record["time_ms"], value))
    client = open_client(Store(uri, None))
    stored = {
        key: sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(run_id, key))
        for key in client.get_run(run_id).data.metrics
    }
    losses = {
        key: [(step, value) for step, _, value in curve] for key, curve in stored.items() if "loss" in key
    }
    return stored == {key: sorted(curve) for key, curve in spooled.items()}, losses


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tracking_outage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--overrides", default="", metavar='"KEY=VALUE ..."', help="changes to the configuration"
    )
    parser.add_argument("--steps", type=count, default=400, help="steps of each training (400)")
    parser.add_argument("--turns", type=count, default=1, help="turns, each of four trainings (1)")
    parser.add_argument("--pause", type=count, default=60, help="seconds that the server is paused (60)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
