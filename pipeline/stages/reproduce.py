"""Repeat a run from its record, and report whether the results are the same."""

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table
from rich.text import Text

from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.plain import Config, to_plain
from pipeline.errors import ConfigError
from pipeline.lineage.reproduction import (
    Outcome,
    changed_metrics,
    differences,
    find_run,
    read_outcome,
    recorded_config,
)
from pipeline.runs.folders import RunFolder, list_runs


def reproduce(config: Config) -> StageResult:
    """Repeat the run under another name, and compare every metric to the last digit.

    Raises:
        ConfigError: if no run is named.
        RunError: if it does not exist, is unfinished, or left nothing to compare.
    """
    from pipeline.commands import find_stage  # which names this module

    if not config.run:
        raise ConfigError("there is no run to reproduce", "a finished run", "give RUN=NAME")
    run = find_run(config.run, Path(config.runs_dir))
    before = read_outcome(run)
    recorded = recorded_config(run, {"tracking": to_plain(config.tracking), "cache_dir": config.cache_dir})
    report.say("Reproduce", f"{report.short(run.path)} ({run.record.stage}), from its config.yaml")
    result = find_stage(run.record.stage)(recorded)
    again = _newest(run, recorded.name)
    now = read_outcome(again)
    changed = changed_metrics(before, now)
    _say(run, again, before, now, changed)
    return StageResult(
        stage="reproduce",
        run_id=result.run_id,
        bundle=result.bundle,
        metrics={"compared": float(len(before.metrics)), "different": float(len(changed))},
    )


def _newest(run: RunFolder, name: str) -> RunFolder:
    """Return the run that was just made, whose name may have a number appended."""
    return next(other for other in list_runs(run.path.parent) if other.name.startswith(name))


def _say(
    run: RunFolder,
    again: RunFolder,
    before: Outcome,
    now: Outcome,
    changed: Mapping[str, tuple[float | None, float | None]],
) -> None:
    if not before.metrics:
        report.say(
            "Repeated",
            f"as {again.name}; the metrics of {run.name} no longer exist, so there is nothing to compare",
        )
        return
    if not changed:
        same = before.weights is not None and before.weights == now.weights
        weights = "; the weights too, bit for bit" if same else ""
        n = len(before.metrics)
        report.say("Identical", f"{n} metrics of {run.name} and {again.name}, to the last digit{weights}")
        return
    table = Table("metric", run.name, again.name, "difference", box=None)
    for name, (old, new) in changed.items():
        gap = "" if old is None or new is None else f"{new - old:+.3e}"
        table.add_row(name, str(old), str(new), gap)
    report.panel(f"{len(changed)} of {len(before.metrics)} metrics differ", table)
    causes = Table("other differences", "then", "now", box=None)
    for name, (then, later) in differences(before.origin, now.origin).items():
        causes.add_row(name, Text(str(then)), Text(str(later)))
    if causes.row_count:
        report.panel("Possible causes", causes)
    else:
        report.say(
            "Why",
            "code, versions, machine and data are equal, but threads and GPUs may add in a different order",
        )
