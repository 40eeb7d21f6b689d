"""The MLflow run of a sweep: the best trial, the table, the picture and links."""

import glob
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline import report
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.config.recorded import with_defaults
from pipeline.files import write_whole
from pipeline.runs.folders import RunFolder
from pipeline.sweep.picture import draw
from pipeline.sweep.plan import Plan
from pipeline.sweep.results import Result, as_csv, as_markdown, best_of, command_of
from pipeline.tracking import Run, RunCard, TrackingOptions, start_run, tag_run
from pipeline.tracking.links import tagged_url
from pipeline.tracking.spool import Progress

TABLE, NOTE, PICTURE = "trials.csv", "trials.md", "trials.png"
TAG = "sweep_id"


def begin_summary(config: Config, run: RunFolder, plan: Plan) -> Run:
    """Start or resume the sweep's own run in MLflow."""
    options = replace(construct(config.tracking, TrackingOptions), system_metrics=False)
    card = RunCard(
        stage=config.stage.name,
        name=run.name,
        config={
            **with_defaults(config),
            "words": list(plan.fixed),
            "keys": {key.key: key.text for key in plan.swept},
        },
        seed=config.sweep.get("seed"),
        tags={TAG: run.name, "swept": plan.target, "metric": plan.metric},
        is_report=True,
    )
    return start_run(card, options=options, run_folder=run.path, project_folder=Path.cwd())


def trials_url(folder: Path) -> str | None:
    """Return the URL of the trials' charts in MLflow, or None if MLflow has no trial yet."""
    for trial in sorted(folder.parent.glob(f"{glob.escape(folder.name)}-*/tracking")):
        progress = Progress.load(trial)
        if progress.uri and progress.experiment_id:
            return tagged_url(progress.uri, progress.experiment_id, TAG, folder.name)
    return None


def note_progress(tracked: Run, n_ended: int, result: Result, best: Result | None) -> None:
    """Log the value of a trial, and the best so far."""
    values = {} if result.value is None or result.state != "done" else {"trial/value": result.value}
    if best is not None and best.value is not None:
        values["trial/best"] = best.value
    if values:
        tracked.log_metrics(values, n_ended)


def write_results(folder: Path, found: Sequence[Result], plan: Plan) -> list[Path]:
    """Write the tables and, if any trial has a value, the picture to the sweep's folder."""
    write_whole(folder / TABLE, as_csv(found, plan.metric))
    write_whole(folder / NOTE, _page(folder, found, plan))
    has_picture = draw(found, plan, folder / PICTURE)
    return [folder / TABLE, folder / NOTE, *([folder / PICTURE] if has_picture else [])]


def mark_pruned(found: Sequence[Result], runs_dir: Path) -> None:
    """Tag pruned trials in MLflow: their runs are KILLED, like those stopped by Ctrl-C."""
    for one in found:
        if one.state != "pruned":
            continue
        problem = tag_run(runs_dir / str(one.run), {"sweep_state": "pruned"}, environ=os.environ)
        if problem:
            report.say("Note", f"run `make sync` later to mark {one.run} as pruned in MLflow: {problem}")


def end_summary(tracked: Run, folder: Path, found: Sequence[Result], plan: Plan) -> None:
    """Record the results: the best trial's values and metric, files, description."""
    best = best_of(found)
    mark_pruned(found, folder.parent)
    for file in write_results(folder, found, plan):
        tracked.log_file(file, file.name)
    tracked.wait_until_known()
    tracked.describe(_page(folder, found, plan))
    if best is None:
        tracked.end("FAILED")
        return
    tracked.set_tags(
        {
            "best_run": best.run,
            "best_trial": best.number,
            **{f"best.{key}": value for key, value in best.values.items()},
        }
    )
    counts = {
        state: float(sum(one.state == state for one in found)) for state in ("done", "pruned", "failed")
    }
    tracked.end("FINISHED", {plan.metric: best.value or 0.0, **counts})


def _page(folder: Path, found: Sequence[Result], plan: Plan) -> str:
    """Describe the sweep in Markdown."""
    best = best_of(found)
    way = "lowest" if plan.direction == "minimize" else "highest"
    keys = ", ".join(f"`{key.key}={key.text}`" for key in plan.swept)
    parts = [
        f"**Sweep of {plan.target}**: {len(found)} trials over {keys}; the {way} {plan.metric} is the best."
    ]
    if best is not None:
        parts.append(f"Best: **{plan.metric} {best.value:.4f}** with {best.changed} (run `{best.run}`).")
        parts.append(f"```\n{command_of(best, plan)}\n```")
    if (address := trials_url(folder)) is not None:
        parts.append(f"[The trials side by side]({address})")
    return "\n\n".join([*parts, as_markdown(found, plan.metric)])
