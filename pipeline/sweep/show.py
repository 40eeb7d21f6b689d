"""Report the progress of a sweep on standard error, and its table at the end."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.text import Text

from pipeline import report
from pipeline.sweep.naming import short_keys, short_values
from pipeline.sweep.options import SweepOptions
from pipeline.sweep.plan import Plan
from pipeline.sweep.results import Result, best_of, result_of, results
from pipeline.sweep.space import Swept
from pipeline.sweep.study import FIRST_AT_RANDOM
from pipeline.words import clock

#: The most trials of a grid that are listed in the plan.
LISTED = 6
COLOURS = {"done": "green", "pruned": "yellow", "failed": "red", "interrupted": "yellow"}


def show_plan(plan: Plan, options: SweepOptions, folder: Path, *, n_done: int, tracked: bool) -> None:
    """Show the plan before the first trial."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    left = f", {n_done} of them already done" if n_done else ""
    table.add_row("trials", f"{plan.n_trials} of {plan.target}{left}, {_at_once(options)}")
    for key in plan.swept:
        table.add_row(f"  {key.key}", Text(_describe(key)))
    table.add_row("order", Text(_order(plan, options)))
    way = "lowest" if plan.direction == "minimize" else "highest"
    table.add_row("best", f"the {way} {plan.metric}")
    table.add_row("pruning", _pruning(options, tracked=tracked))
    table.add_row("folder", Text(report.short(folder)))
    report.panel(f"Sweep {escape(folder.name)}", table)


def _at_once(options: SweepOptions) -> str:
    where = {"local": "on this machine", "slurm": "on Slurm", "submitit_local": "by submitit on this machine"}
    n = options.n_parallel
    return f"{'one' if n == 1 else n} at a time {where[options.launcher]}"


def _describe(key: Swept) -> str:
    drawn = key.distribution
    if isinstance(drawn, CategoricalDistribution):
        return ", ".join(key.values or [])
    if isinstance(drawn, IntDistribution):
        step = f" in steps of {drawn.step}" if drawn.step != 1 else ""
        return f"whole numbers from {drawn.low} to {drawn.high}{step}{_by_factor(drawn.log)}"
    if isinstance(drawn, FloatDistribution):
        step = f" in steps of {drawn.step:g}" if drawn.step is not None else ""
        return f"from {drawn.low:g} to {drawn.high:g}{step}{_by_factor(drawn.log)}"
    return key.text


def _by_factor(log: bool) -> str:
    return ", on a logarithmic scale" if log else ""


def _order(plan: Plan, options: SweepOptions) -> str:
    if plan.grid is not None:
        rest = len(plan.grid) - LISTED
        more = [f"and {rest} more; the last key varies fastest"] if rest > 0 else []
        return "\n".join([*(_words(values) for values in plan.grid[:LISTED]), *more])
    if options.sampler == "random":
        return f"drawn at random (sweep.seed={options.seed})"
    return (
        f"{FIRST_AT_RANDOM} at random, then where Optuna's TPE expects the best (sweep.seed={options.seed})"
    )


def _words(values: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in short_values(values).items())


def _pruning(options: SweepOptions, *, tracked: bool) -> str:
    if not options.prunes:
        return "none: every trial runs to completion"
    if not tracked:
        return "none: with tracking=off a trial's validations are not recorded"
    ended = "1 has" if options.prune_after == 1 else f"{options.prune_after} have"
    return f"trials worse than the median at a validation are stopped, once {ended} ended"


class Narrator:
    """Prints a line for each trial that ends; on a terminal, shows running trials below."""

    def __init__(self, study: Study, plan: Plan, noted: Callable[[Result, Result | None], None]) -> None:
        self._study, self._plan, self._noted = study, plan, noted
        self._console = report.console()
        self._status: Status | None = None
        self._begun: dict[int, tuple[str, float]] = {}
        self._took: list[float] = []
        self._width = 0

    @contextmanager
    def live(self) -> Iterator[Self]:
        """Show running trials on a terminal until the end of the block."""
        if not self._console.is_terminal:
            yield self
            return
        with self._console.status("") as self._status:
            yield self
        self._status = None

    def began(self, trial: Trial, values: dict[str, str], *, resumed: bool) -> None:
        """Remember the start of a trial, and print that it is resumed if so."""
        words = _words(values)
        self._width = max(self._width, len(words))
        self._begun[trial.number] = words, time.monotonic()
        if resumed:
            self._console.print(f"trial {trial.number} is resumed: {escape(words)}")

    def looked(self, running: int) -> None:
        """Show the running trials, their durations, and the best trial so far."""
        if self._status is None:
            return
        work = "; ".join(
            f"trial {number} ({words}) {clock(time.monotonic() - since)}"
            for number, (words, since) in self._begun.items()
        )
        best = best_of(results(self._study, self._plan))
        so_far = (
            f"; best so far {best.value:.4f} (trial {best.number})" if best and best.value is not None else ""
        )
        left = self._plan.n_trials - sum(trial.state.is_finished() for trial in self._study.trials)
        about = ""
        if self._took and running:
            about = f"; about {clock(sum(self._took) / len(self._took) * left / running)} left"
        self._status.update(escape(f"{work}{so_far}{about}"))

    def ended(self, trial: FrozenTrial) -> None:
        """Print a line, with the best so far."""
        self._begun.pop(trial.number, None)
        result = result_of(trial, self._study, self._plan)
        best = best_of(results(self._study, self._plan))
        if result.seconds is not None:
            self._took.append(result.seconds)
        self._console.print(self._line(result, best), soft_wrap=True)
        self._noted(result, best)

    def _line(self, result: Result, best: Result | None) -> Text:
        n_ended = sum(trial.state.is_finished() for trial in self._study.trials)
        count = f"{n_ended:>{len(str(self._plan.n_trials))}}/{self._plan.n_trials}"
        value = f"{self._plan.metric} {result.value:.4f}" if result.value is not None else ""
        seconds = "" if result.seconds is None else f"{result.seconds:.0f} s"
        is_best = best is not None and best.number == result.number
        ending = "best so far" if is_best else result.reason or ""
        return Text.assemble(
            (f"{count}  ", "dim"),
            f"trial {result.number:<3} {result.changed:<{self._width}}  ",
            (f"{result.state:<6}", COLOURS[result.state]),
            f"  {value}  {seconds:>5}  ",
            (ending, "bold" if is_best else ""),
        )


def _note(one: Result, best: Result | None) -> str:
    """Return the note on a trial in the table: `best`, or the first part of its reason."""
    return "best" if one is best else (one.reason or "").partition(";")[0]


def result_table(found: Sequence[Result], plan: Plan) -> Table:
    """Return a table of all trials, best first."""
    table = Table(box=None, pad_edge=False, title_justify="left")
    shorts = short_keys([key.key for key in plan.swept])
    table.add_column("trial", justify="right")
    table.add_column(plan.metric, justify="right")
    for key in plan.swept:
        table.add_column(Text(shorts[key.key]))
    table.add_column("state")
    table.add_column("seconds", justify="right")
    table.add_column("", no_wrap=True, overflow="ellipsis")
    best = best_of(found)
    for one in found:
        value = "" if one.value is None else f"{one.value:.4f}"
        seconds = "" if one.seconds is None else f"{one.seconds:.0f}"
        cells = [str(one.number), value, *one.shown.values()]
        style = "bold" if best is one else ""
        state = Text(one.state, style=COLOURS[one.state])
        table.add_row(*(Text(cell) for cell in cells), state, seconds, Text(_note(one, best)), style=style)
    return table
