"""The summary of a pipeline: a table of its steps, the URL of its runs in MLflow, and next commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline import report
from pipeline.commands import StageResult
from pipeline.compare.facts import read_measurement
from pipeline.files import mapping_in
from pipeline.registry.kept import REGISTRATION
from pipeline.runs.folders import made_bundle
from pipeline.runs.record import RunFolder
from pipeline.tasks.finetuning import Score
from pipeline.tracking.links import charts_url
from pipeline.tracking.spool import Progress

#: Files of a run's folder that contain its metrics; the first one that exists is read.
METRICS = ("bundles/best/metrics.json", "metrics.json")
#: Metrics shown for a run without a task: the first one that exists.
HEADLINES = ("val/bits_per_byte", "val/accuracy", "val/loss", "val/bytes_per_token")


@dataclass(frozen=True, kw_only=True)
class Done:
    """A step that is done.

    Args:
        run: the run of the step.
        how: `kept`, `ran`, or `resumed` from a checkpoint.
        seconds: duration in this pipeline.
        newest: the newest run of the step that had finished before.
    """

    run: RunFolder
    how: str
    seconds: float | None = None
    newest: RunFolder | None = None

    @property
    def ran(self) -> bool:
        """Whether the step ran."""
        return self.how != "kept"


@dataclass(frozen=True, kw_only=True)
class PipelineResult(StageResult):
    """The outcome of a pipeline; `pipeline_id` is None if nothing ran."""

    pipeline_id: str | None
    steps: list[dict[str, Any]] = field(default_factory=list)


def result_of(done: Mapping[str, Done], pipeline_id: str | None) -> PipelineResult:
    """Convert the steps to plain values."""
    n_ran = sum(one.ran for one in done.values())
    steps = [
        {
            "step": name,
            "run": one.run.name,
            "how": one.how,
            "seconds": one.seconds,
            "metrics": {key: score.value for key, score in headline(one.run).items()},
        }
        for name, one in done.items()
    ]
    counts = {"steps": float(len(done)), "ran": float(n_ran), "kept": float(len(done) - n_ran)}
    return PipelineResult(stage="pipeline", metrics=counts, pipeline_id=pipeline_id, steps=steps)


def summarise(done: Mapping[str, Done], pipeline_id: str | None, *, failed: Sequence[str] = ()) -> None:
    """Print the table, next commands, and the URL in MLflow."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("step", no_wrap=True)
    table.add_column("run", overflow="fold")
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("metrics", no_wrap=True)
    for name, one in done.items():
        table.add_row(name, Text(one.run.name), _took(one), _in_words(one.run))
    for name in failed:
        table.add_row(name, "", Text("failed", style="bold"), "")
    n_ran = sum(one.ran for one in done.values())
    ran = "nothing to do: identical inputs"
    if n_ran or failed:
        ran = f"{n_ran} of {len(done) + len(failed)} steps ran"
    report.panel(f"{pipeline_id}: {ran}" if pipeline_id else ran, table)
    _say_next(done)
    _say_address([one.run for one in done.values() if made_bundle(one.run)])


def _took(one: Done) -> Text:
    if one.seconds is None:
        return Text(one.how, style="dim")
    return Text(f"{one.how} {one.seconds:,.0f}", style="bold")


def headline(run: RunFolder) -> dict[str, Score]:
    """Return the task's metric with its interval, or another metric for a run without a task."""
    measured = read_measurement(run.path)
    if measured is not None and measured.metric in measured.metrics:
        return {str(measured.metric): measured.metrics[str(measured.metric)]}
    for name in METRICS:
        values = mapping_in(run.path / name)
        if key := next((key for key in HEADLINES if key in values), None):
            return {key.rpartition("/")[2]: Score(value=values[key])}
    return {}


def _in_words(run: RunFolder) -> str:
    registered = mapping_in(run.path / REGISTRATION)
    if registered:
        return f"{registered['model']} version {registered['version']}"
    return ", ".join(f"{name.replace('_', ' ')} {_score(score)}" for name, score in headline(run).items())


def _score(score: Score) -> str:
    value = f"{score.value:,.0f}" if score.value.is_integer() and score.value > 1 else f"{score.value:.4f}"
    return value if score.low is None else f"{value} ({score.low:.4f} to {score.high:.4f})"


def _say_next(done: Mapping[str, Done]) -> None:
    """Print next commands that fit the results."""
    commands = Table(show_header=False, box=None, pad_edge=False)
    again = [one for one in done.values() if one.run.is_of("finetune") and one.ran and one.newest]
    if again:
        task = (again[0].run.record.choices or {})["task"]
        compare = f'make compare RUNS="last:2:finetune:{task}"'
        commands.add_row(Text(compare, style="bold"), "compare before and after the change")
    trained = [one for one in done.values() if one.run.is_of("finetune")]
    last = trained[-1] if trained else done["pretrain"]
    rows = {
        f"make lineage MODEL={last.run.name}": "trace this model back to its sources",
        "make why STAGE=pretrain": "which inputs would make a step run again",
        "make ui": "see the runs in MLflow",
    }
    for command, purpose in rows.items():
        commands.add_row(Text(command, style="bold"), purpose)
    report.panel("Next", commands)


def _say_address(runs: list[RunFolder]) -> None:
    """Print the URL of the charts of the runs in the same store and experiment as the first."""
    known = [Progress.load(run.path / "tracking") for run in runs]
    known = [one for one in known if one.run_id and one.uri and one.experiment_id]
    if not known:
        return
    first = known[0]
    same = [one for one in known if (one.uri, one.experiment_id) == (first.uri, first.experiment_id)]
    address = charts_url(str(first.uri), str(first.experiment_id), [str(one.run_id) for one in same])
    # On a line of its own: a frame would wrap it.
    report.console().print(f"These runs in MLflow (make ui): {address}", soft_wrap=True)
