"""Run the trials of a sweep, and find the best (`make sweep`)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.model import check_values
from pipeline.config.plain import Config
from pipeline.errors import RunError, Stopped
from pipeline.runs.folders import RunFolder, open_run
from pipeline.sweep.cluster import Cluster, check_cluster
from pipeline.sweep.driver import Driver
from pipeline.sweep.launch import Launcher, Processes
from pipeline.sweep.options import SweepOptions
from pipeline.sweep.plan import Plan, identity, make_plan
from pipeline.sweep.record import find_sweep, write_record
from pipeline.sweep.results import Result, best_of, command_of, results
from pipeline.sweep.show import Narrator, result_table, show_plan
from pipeline.sweep.study import n_ended, open_study
from pipeline.sweep.summary import TABLE, begin_summary, end_summary, note_progress, trials_url, write_results
from pipeline.tracking import Run

#: Keys of the sweep itself, and keys that it shares with its trials; all others are for the trials.
OWN = ("sweep", "name", "resume")
SHARED = ("tracking", "runs_dir")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The parsed command: the configuration of the sweep, and its plan."""

    config: Config
    options: SweepOptions
    plan: Plan


def read_request(words: Sequence[str]) -> Request:
    """Read and check what the user typed.

    Raises:
        ConfigError: if a word is wrong.
    """
    config = compose("sweep", [word for word in words if _top(word) in (*OWN, *SHARED)])
    options = construct(config.sweep, SweepOptions)
    check_values(config)
    plan = make_plan(options, [word for word in words if _top(word) not in OWN])
    return Request(config=config, options=options, plan=plan)


def sweep(words: Sequence[str]) -> StageResult:
    """Run a trial for each setting, and report the best.

    Raises:
        ConfigError: if a word is wrong.
        RunError: if jobs cannot be submitted from this machine, there is nothing to resume, or no trial
            succeeded.
        Stopped: if a signal was received; RESUME=1 resumes the sweep.
    """
    request = read_request(words)
    config, options, plan = request.config, request.options, request.plan
    if options.launcher != "local":
        check_cluster(options.launcher)
    began = identity(options, plan)
    found = find_sweep(Path(config.runs_dir), config.resume, began) if config.resume else None
    if found is not None:
        _check_unfinished(found, plan, options)
    with open_run(config, label="sweep", found=found) as run:
        write_record(run.path, began)
        return _run(config, options, plan, run)


def _top(word: str) -> str:
    return word.partition("=")[0].lstrip("+~").split(".")[0]


def _check_unfinished(run: RunFolder, plan: Plan, options: SweepOptions) -> None:
    n = n_ended(open_study(run.path, plan, options))
    if n >= plan.n_trials:
        more = f"give more than sweep.trials={n}" if plan.grid is None else "start a new sweep without RESUME"
        raise RunError(
            f"{run.path} is finished: all {n} trials have ended",
            "a sweep with trials left to run",
            f"read {run.path / TABLE}, or {more}",
        )


def _run(config: Config, options: SweepOptions, plan: Plan, run: RunFolder) -> StageResult:
    launcher = _launcher(options, run.path)
    study = open_study(run.path, plan, options)
    show_plan(
        plan, options, run.path, n_done=n_ended(study), tracked=bool(config.tracking.get("enabled", True))
    )
    with begin_summary(config, run, plan) as tracked:
        narrator = Narrator(
            study, plan, lambda result, best: note_progress(tracked, n_ended(study), result, best)
        )
        with narrator.live():
            driver = Driver(study, plan, options, launcher=launcher, sweep=run.path, audience=narrator)
            try:
                driver.run()
            except Stopped as error:
                write_results(run.path, results(study, plan), plan)
                ended = f"{n_ended(study)} of {plan.n_trials} trials have ended"
                error.hint = f"{ended}; run the same command with RESUME=1 to resume"
                raise
        found = results(study, plan)
        end_summary(tracked, run.path, found, plan)
        return _report(run, plan, found, tracked)


def _launcher(options: SweepOptions, folder: Path) -> Launcher:
    if options.launcher == "local":
        return Processes(options.n_parallel, os.environ)
    return Cluster(options.launcher, options.slurm, folder / "jobs", os.environ)


def _report(run: RunFolder, plan: Plan, found: Sequence[Result], tracked: Run) -> StageResult:
    """Show the results, and return them.

    Raises:
        RunError: if no trial succeeded.
    """
    best = best_of(found)
    if best is None or best.value is None:
        failed = [one for one in found if one.reason is not None]
        first = min(failed, key=lambda one: one.number).reason if failed else "all were pruned"
        raise RunError(
            f"none of {len(found)} trials succeeded (the first one: {first})",
            "at least one successful trial",
            f"read all reasons in {run.path / TABLE}",
        )
    report.page(result_table(found, plan))
    _say_end(run, plan, best, tracked)
    n = {state: float(sum(one.state == state for one in found)) for state in ("done", "pruned", "failed")}
    folder = run.path.parent / str(best.run)
    return StageResult(
        stage="sweep",
        run_id=tracked.run_id,
        bundle=str(folder / "bundles" / "best"),
        metrics={plan.metric: best.value, "best_trial": float(best.number), "trials": float(len(found)), **n},
        output=[str(run.path / TABLE)],
    )


def _say_end(run: RunFolder, plan: Plan, best: Result, tracked: Run) -> None:
    """Show the best trial, how to use it, and where the results are."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in best.values.items():
        table.add_row(Text(key), Text(value, style="bold"))
    table.add_row(plan.metric, f"[bold]{best.value:.4f}[/bold]")
    table.add_row("run", Text(report.short(run.path.parent / str(best.run)), overflow="fold"))
    report.panel(f"{run.name}: best of {plan.n_trials} trials", table)
    say = report.console()
    say.print("[bold]Repeat the best trial[/bold]")
    say.print(Text(f"  {command_of(best, plan)}"), soft_wrap=True)
    say.print(f"Table, picture, logs: {report.short(run.path)}", soft_wrap=True)
    for what, address in (("Trials", trials_url(run.path)), ("This sweep", tracked.url)):
        if address is not None:
            say.print(f"{what} in MLflow (make ui): {address}", soft_wrap=True)
