"""Trials that end at once: each leaves the run folder that a process would have left, as its script says."""

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import FrozenTrial, Trial

from pipeline.sweep.driver import Driver
from pipeline.sweep.launch import Work
from pipeline.sweep.options import SweepOptions
from pipeline.sweep.plan import Plan, make_plan
from pipeline.sweep.results import Result, results
from pipeline.sweep.study import open_study
from pipeline.tracking.spool import now_ms

WORDS = ("size=nano", "runs_dir=runs")


@dataclass(kw_only=True)
class Script:
    """What a trial does: its validations, one a look, and its end.

    Args:
        losses: `val/loss` at step 10, 20, ...; the smallest is that of the best bundle.
        error: it fails, and says this.
        metrics: further ones of the bundle.
        never_ends: it goes on until it is stopped.
    """

    losses: Sequence[float] = (1.0,)
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    never_ends: bool = False


class ScriptedJob:
    """A trial at work."""

    def __init__(self, work: Work, script: Script) -> None:
        self._work, self._script = work, script
        self._step = 0
        self._stopped = False
        self.handle = work.folder.name
        self.exit_code: int | None = None
        (work.folder / "tracking").mkdir(parents=True, exist_ok=True)
        self._record("RUNNING")

    def is_running(self) -> bool:
        if self._stopped:
            self._end("KILLED", 128 + signal.SIGTERM)
        elif self._step < len(self._script.losses):
            self._validate(self._script.losses[self._step])
            return True
        elif self._script.never_ends:
            return True
        elif self._script.error is not None:
            self._work.log.write_text(f"step 1\nerror: {self._script.error}\n")
            self._end("FAILED", 2)
        else:
            self._bundle()
            self._end("FINISHED", 0)
        return False

    def stop(self) -> None:
        self._stopped = True

    def kill(self) -> None:
        self._stopped = True

    def _validate(self, loss: float) -> None:
        self._step += 1
        values = {"val/loss": loss, **{key: loss for key in self._script.metrics if key.startswith("val/")}}
        line = {"kind": "metrics", "time_ms": now_ms(), "step": 10 * self._step, "values": values}
        with (self._work.folder / "tracking" / "points.jsonl").open("a") as points:
            points.write(json.dumps(line) + "\n")

    def _bundle(self) -> None:
        best = self._work.folder / "bundles" / "best"
        best.mkdir(parents=True)
        metrics = {"val/loss": min(self._script.losses), **self._script.metrics}
        (best / "metrics.json").write_text(json.dumps(metrics))
        (best / "DONE").write_text("{}")

    def _end(self, status: str, code: int) -> None:
        self.exit_code = code
        self._record(status)

    def _record(self, status: str) -> None:
        (self._work.folder / "run.json").write_text(json.dumps({"status": status}))


class ScriptedLauncher:
    """Starts scripted trials; knows those that it has started."""

    def __init__(self, script: Callable[[Work], Script]) -> None:
        self._script = script
        self.started: list[Work] = []
        self.slots: list[int] = []
        self.jobs: dict[str, ScriptedJob] = {}

    def launch(self, work: Work, *, slot: int) -> ScriptedJob:
        self.started.append(work)
        self.slots.append(slot)
        job = self.jobs[work.folder.name] = ScriptedJob(work, self._script(work))
        return job

    def find(self, handle: str) -> ScriptedJob | None:
        return self.jobs.get(handle)


class Listener:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.begun: list[dict[str, str]] = []
        self.resumed: list[int] = []
        self.n_running: list[int] = []
        self.states: list[str] = []

    def began(self, trial: Trial, values: dict[str, str], *, resumed: bool) -> None:
        self.begun.append(values)
        self.resumed += [trial.number] if resumed else []

    def looked(self, running: int) -> None:
        self.n_running.append(running)

    def ended(self, trial: FrozenTrial) -> None:
        self.states.append(trial.state.name)


@dataclass(kw_only=True)
class Swept:
    """A sweep after its end, or in the middle."""

    launcher: ScriptedLauncher
    listener: Listener
    plan: Plan
    results: list[Result]

    def by_number(self) -> list[Result]:
        return sorted(self.results, key=lambda one: one.number)


def run_sweep(
    script: Callable[[Work], Script],
    *words: str,
    folder: Path = Path("runs/sweep-1"),
    launcher: ScriptedLauncher | None = None,
    listener: Listener | None = None,
    **options: object,
) -> Swept:
    """Sweep with scripted trials in the working folder; what is known of the sweep there is gone on with."""
    chosen = SweepOptions(**options)  # type: ignore[arg-type]
    plan = make_plan(chosen, [*WORDS, *words])
    folder.mkdir(parents=True, exist_ok=True)
    study = open_study(folder, plan, chosen)
    launcher, listener = launcher or ScriptedLauncher(script), listener or Listener()
    driver = Driver(study, plan, chosen, launcher=launcher, sweep=folder, audience=listener, poll_every_s=0.0)
    driver.run()
    return Swept(launcher=launcher, listener=listener, plan=plan, results=results(study, plan))


def value_of(work: Work, key: str) -> str:
    """What a trial was given for a key."""
    return next(word.partition("=")[2] for word in work.words if word.startswith(f"{key}="))
