"""Compare runs: at the terminal, as a page, and in MLflow."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from pipeline import report
from pipeline.commands import StageResult
from pipeline.compare.comparison import Comparison, compare_runs
from pipeline.compare.facts import RunFacts, read_facts
from pipeline.compare.select import FORMS, select_runs
from pipeline.compare.terminal import show
from pipeline.compare.verdict import verdict
from pipeline.compare.wording import metric_words, score_words
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.config.recorded import with_defaults
from pipeline.errors import ConfigError
from pipeline.output import check_writable, write_whole
from pipeline.runs.folders import RunFolder, open_run
from pipeline.tracking import Run, RunCard, TrackingOptions, start_run
from pipeline.tracking.links import compare_url
from pipeline.tracking.spool import Progress

PAGE = "compare.html"


def compare(config: Config) -> StageResult:
    """Compare the named runs, show them side by side, and write the page.

    Raises:
        ConfigError: if no runs are named.
        RunError: if a name is unknown or ambiguous, the runs are of different tasks, or the page cannot be
            written.
    """
    if not config.runs:
        raise ConfigError("there are no runs to compare", FORMS, 'name runs, for example RUNS="last:2"')
    comparison = compare_runs([read_facts(run) for run in select_runs(config.runs, Path(config.runs_dir))])
    if config.output:
        check_writable(Path(config.output))
    report.page(show(comparison))
    address = mlflow_url(comparison.runs)
    with open_run(config, label="compare") as run:
        from pipeline.compare.page import render_page  # charts take a second to import

        page = Path(config.output) if config.output else run.path / PAGE
        render = partial(render_page, comparison, mlflow_url=address, at=datetime.now().astimezone())
        shown = render()
        write_whole(page, shown)
        report.say("Page", report.short(page.absolute()))
        _say_address(comparison.runs, address)
        may_show_text = all(facts.may_show_text for facts in comparison.runs)
        recorded = shown if may_show_text else render(show_text=False)
        tracked, results = _track(config, run, comparison, recorded)
    return StageResult(
        stage="compare", run_id=tracked.run_id, metrics=results, output=[str(page)], is_said=True
    )


def _track(config: Config, run: RunFolder, comparison: Comparison, page: str) -> tuple[Run, dict[str, float]]:
    """Record the page as a run of its own, with tags that name the compared runs."""
    card = RunCard(
        stage=config.stage.name,
        name=run.name,
        config=with_defaults(config),
        seed=config.seed,
        tags=_lineage_tags(comparison),
        is_report=True,
    )
    options = construct(config.tracking, TrackingOptions)
    results = _results(comparison)
    with start_run(card, options=options, run_folder=run.path, project_folder=Path.cwd()) as tracked:
        tracked.log_text(page, PAGE)
        tracked.describe(_about(comparison))
        tracked.end("FINISHED", results)
    return tracked, results


def _say_address(runs: Sequence[RunFacts], address: str | None) -> None:
    """Print the URL on a line of its own, without wrapping."""
    n_together = len(_tracked_together(runs))
    if address is None:
        report.say("MLflow", "fewer than two of these runs are in the same store")
        return
    some = "these runs" if n_together == len(runs) else f"{n_together} of these {len(runs)} runs"
    report.say("MLflow", f"{some} side by side (make ui):")
    report.console().print(address, soft_wrap=True)


def mlflow_url(runs: Sequence[RunFacts]) -> str | None:
    """Return the URL of MLflow's comparison of the runs that it knows; None for fewer than two."""
    same = _tracked_together(runs)
    if len(same) < 2:
        return None
    experiments = dict.fromkeys(str(one.experiment_id) for one in same)
    return compare_url(str(same[0].uri), list(experiments), [str(one.run_id) for one in same])


def _tracked_together(runs: Sequence[RunFacts]) -> list[Progress]:
    """Return the runs in the same store as the first tracked one."""
    known = [run.tracked for run in runs if run.tracked.run_id and run.tracked.uri]
    return [one for one in known if one.uri == known[0].uri]


def _lineage_tags(comparison: Comparison) -> dict[str, str]:
    """Return the tags that name the compared runs in MLflow."""
    return {
        "compared_runs": ", ".join(run.name for run in comparison.runs),
        "compared_run_ids": ",".join(run.tracked.run_id or "" for run in comparison.runs),
        "best_run": comparison.runs[comparison.order[0]].name,
        "verdict": verdict(comparison),
    }


def _about(comparison: Comparison) -> str:
    """Return the verdict and the runs, best first, in Markdown."""
    metric = comparison.metric
    lines = [f"{verdict(comparison)}\n", f"| run | description | {metric_words(metric) if metric else ''} |"]
    lines.append("|---|---|---|")
    for place in comparison.order:
        run = comparison.runs[place]
        score = score_words(comparison.metrics[metric][place]) if metric else ""
        lines.append(f"| {run.name.replace('|', '/')} | {run.title} | {score} |")
    return "\n".join(lines)


def _results(comparison: Comparison) -> dict[str, float]:
    """Return the difference between the best two runs as metrics."""
    first = comparison.pairs[0].difference
    if first is None:
        return {}
    return {
        "difference": first.value,
        "difference_low": first.low,
        "difference_high": first.high,
        "p_value": first.p_value,
    }
