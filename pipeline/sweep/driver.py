"""Run the trials of a sweep: start them, read their validations, prune bad ones, and collect results."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain, count
from pathlib import Path
from types import FrameType
from typing import Protocol

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.config.grammar import quoted
from pipeline.errors import ConfigError, Stopped, UserError
from pipeline.signals import Requests, listening
from pipeline.sweep import study as studies
from pipeline.sweep.launch import Job, Launcher, Work
from pipeline.sweep.naming import run_name
from pipeline.sweep.options import SweepOptions
from pipeline.sweep.plan import Plan
from pipeline.sweep.watch import Validations, can_resume, outcome

#: Keys of the user attributes of a trial.
RUN, HANDLE, REASON, SECONDS, TWIN = "run", "handle", "reason", "seconds", "same_as"


class Audience(Protocol):
    """A receiver of the progress of a sweep."""

    def began(self, trial: Trial, values: dict[str, str], *, resumed: bool) -> None:
        """Called when a trial has started."""

    def looked(self, running: int) -> None:
        """Called after each check of the running trials."""

    def ended(self, trial: FrozenTrial) -> None:
        """Called when a trial has ended."""


@dataclass(kw_only=True)
class Running:
    """A running trial."""

    trial: Trial
    job: Job
    folder: Path
    log: Path
    slot: int
    validations: Validations
    since: float = field(default_factory=time.monotonic)
    reported: set[int] = field(default_factory=set)
    is_pruned: bool = False


class Driver:
    """Runs the remaining trials of a plan.

    Args:
        study: the record of the trials.
        plan: the trials to run.
        options: the options of the sweep.
        launcher: starts the trials.
        sweep: the folder of the sweep; its name is a tag of each trial.
        audience: receives the progress.
        poll_every_s: seconds between two checks of the trials.
    """

    def __init__(
        self,
        study: Study,
        plan: Plan,
        options: SweepOptions,
        *,
        launcher: Launcher,
        sweep: Path,
        audience: Audience,
        poll_every_s: float = 0.2,
    ) -> None:
        self._study, self._plan, self._options = study, plan, options
        self._launcher, self._sweep, self._audience = launcher, sweep, audience
        self._poll_every_s = poll_every_s
        self._running: list[Running] = []
        self._waiting = studies.interrupted(study)
        self._requests = Requests()
        (sweep / "trials").mkdir(exist_ok=True)

    def run(self) -> None:
        """Run all trials to completion.

        Raises:
            ConfigError: if no trial has the metric.
            Stopped: if a signal was received; the trials have saved, and can be resumed.
        """
        with listening(self._handle):
            try:
                while self._fill() or self._running:
                    if self._requests.first is not None:
                        raise Stopped(self._requests.first)
                    self._poll()
                    self._audience.looked(len(self._running))
                    time.sleep(self._poll_every_s)
            finally:
                self._stop_all()

    def _fill(self) -> bool:
        """Start trials in the free slots; return whether there may be more to start."""
        while len(self._running) < self._options.n_parallel and self._requests.first is None:
            resumed = bool(self._waiting)
            trial = (
                self._waiting.pop(0)
                if resumed
                else studies.next_trial(self._study, self._plan, self._options)
            )
            if trial is None:
                return False
            self._begin(trial, resumed=resumed)
        return True

    def _begin(self, trial: Trial, *, resumed: bool) -> None:
        """Start a trial, unless its values are invalid or were tried before; adopt one that still runs."""
        values = studies.values_of(trial, self._plan)
        self._audience.began(trial, values, resumed=resumed)
        if (twin := studies.twin(self._study, trial)) is not None:
            trial.set_user_attr(TWIN, twin.number)
            self._tell(trial, TrialState.COMPLETE, twin.value)
            return
        try:
            runs_dir = Path(self._plan.compose(values).runs_dir)
        except UserError as error:
            trial.set_user_attr(REASON, error.sentence)
            self._tell(trial, TrialState.FAIL)
            return
        self._running.append(self._adopt(trial, runs_dir) or self._start(trial, values, runs_dir))

    def _adopt(self, trial: Trial, runs_dir: Path) -> Running | None:
        """Return a trial that a killed sweep left running, or that has finished since, or None."""
        name, handle = trial.user_attrs.get(RUN), trial.user_attrs.get(HANDLE)
        job = self._launcher.find(handle) if handle else None
        if name is None or job is None:
            return None
        folder = runs_dir / name
        if not job.is_running() and outcome(folder, self._log(trial), None).state != "done":
            return None
        return self._running_at(trial, job, folder, self._free_slot())

    def _start(self, trial: Trial, values: dict[str, str], runs_dir: Path) -> Running:
        """Start the trial's process, from its last checkpoint if there is one."""
        name = self._name(trial, values, runs_dir)
        trial.set_user_attr(RUN, name)
        slot, folder, log = self._free_slot(), runs_dir / name, self._log(trial)
        words = [*self._plan.words(values), *self._tags(trial), f"name={quoted(name)}"]
        work = Work(stage=self._plan.stage, words=words, folder=folder, log=log)
        job = self._launcher.launch(work, slot=slot)
        trial.set_user_attr(HANDLE, job.handle)
        return self._running_at(trial, job, folder, slot)

    def _running_at(self, trial: Trial, job: Job, folder: Path, slot: int) -> Running:
        return Running(
            trial=trial,
            job=job,
            folder=folder,
            log=self._log(trial),
            slot=slot,
            validations=Validations(folder),
            reported=set(self._study.trials[trial.number].intermediate_values),
        )

    def _name(self, trial: Trial, values: dict[str, str], runs_dir: Path) -> str:
        """Return the name of the run to resume, or an unused name."""
        known = trial.user_attrs.get(RUN)
        if known is not None and can_resume(runs_dir / known):
            return str(known)
        name = run_name(self._sweep.name, trial.number, values)
        taken = (f"{name}-{attempt}" for attempt in count(2))
        return next(each for each in chain([name], taken) if not (runs_dir / each).exists())

    def _tags(self, trial: Trial) -> list[str]:
        """Return the tags that mark the trials of this sweep in MLflow."""
        tags = {"sweep_id": quoted(self._sweep.name), "sweep_trial": quoted(str(trial.number))}
        return [f"++tracking.tags.{key}={value}" for key, value in tags.items()]

    def _log(self, trial: Trial) -> Path:
        return self._sweep / "trials" / f"{trial.number:03d}.log"

    def _free_slot(self) -> int:
        return min(set(range(self._options.n_parallel)) - {each.slot for each in self._running})

    def _poll(self) -> None:
        """Process new validations and trials that have ended."""
        for each in list(self._running):
            has_ended = not each.job.is_running()
            self._report(each)
            if has_ended:
                self._running.remove(each)
                self._finish(each)

    def _report(self, each: Running) -> None:
        """Report new validations to Optuna, and stop the trial if it should be pruned."""
        metric = self._plan.metric
        for step, values in each.validations.new():
            if metric.startswith("val/") and metric not in values:
                raise self._no_such_metric(values)
            if metric in values and step not in each.reported:
                each.reported.add(step)
                each.trial.report(values[metric], step)
                self._prune(each)

    def _prune(self, each: Running) -> None:
        if not each.is_pruned and each.trial.should_prune():
            each.is_pruned = True
            each.job.stop()

    def _no_such_metric(self, found: Iterable[str]) -> ConfigError:
        names = [name for name in sorted(found) if not name.endswith(("_low", "_high"))]
        close = get_close_matches(self._plan.metric, names, n=1)
        return ConfigError(
            f"sweep.metric={self._plan.metric} is not a metric of the trials",
            f"one of {', '.join(names)}",
            f"did you mean {close[0]}?" if close else "use one of these, or leave out sweep.metric",
        )

    def _finish(self, each: Running) -> None:
        """Record the outcome of a trial that has ended."""
        end = outcome(each.folder, each.log, each.job.exit_code)
        each.trial.set_user_attr(SECONDS, round(time.monotonic() - each.since, 1))
        if end.state == "done":
            if self._plan.metric not in end.metrics:
                raise self._no_such_metric(end.metrics)
            self._complete(each, end.metrics[self._plan.metric])
        elif each.is_pruned and end.state == "stopped":
            self._tell(each.trial, TrialState.PRUNED)
        else:
            each.trial.set_user_attr(REASON, end.reason)
            self._tell(each.trial, TrialState.FAIL)

    def _complete(self, each: Running, value: float) -> None:
        if math.isfinite(value):
            self._tell(each.trial, TrialState.COMPLETE, value)
            return
        each.trial.set_user_attr(REASON, f"{self._plan.metric} is {value}")
        self._tell(each.trial, TrialState.FAIL)

    def _tell(self, trial: Trial, state: TrialState, value: float | None = None) -> None:
        self._audience.ended(self._study.tell(trial, value, state=state))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Defer a first signal to the next check, so that every record is complete; raise at the second."""
        is_first = self._requests.first is None
        if self._requests.is_new(number) and not is_first:
            raise Stopped(number)

    def _stop_all(self) -> None:
        """Stop running trials, which finish their step and save; at a second signal, kill them."""
        for each in self._running:
            each.job.stop()
        try:
            while any(each.job.is_running() for each in self._running):
                time.sleep(self._poll_every_s)
        except Stopped:
            for each in self._running:
                each.job.kill()
            raise
