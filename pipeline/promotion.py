"""Whether a challenger is better than the champion beyond what chance gives, on the same rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.compare.facts import Measurement, read_measurement
from pipeline.compare.significance import Difference, pair_rows, paired_difference
from pipeline.errors import RunError
from pipeline.lineage.evaluations import finished_evaluations, runs_that_measured
from pipeline.registry import Version
from pipeline.runs import RunFolder
from pipeline.stored import read_part, read_task
from pipeline.tasks.finetuning import FinetuneTask, Score

_EVALUATE = "`make evaluate-TASK BUNDLE=... DATA=...` (`make evaluate` for a pretrained model)"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the challenger is better, and the numbers that say so."""

    is_better: bool
    numbers: str


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The metric that decides for a task; `prefix` is what bundles record it under."""

    metric: str
    higher_is_better: bool
    prefix: str = "test"


#: Of a pretrained model.
LOWEST_LOSS = Goal(metric="loss", higher_is_better=False, prefix="val")


def judge(challenger: Version, champion: Version, runs_dir: Path) -> Verdict:
    """By the rows that both have answered; else by the intervals of the task's metric.

    Raises:
        RunError: there is nothing to judge them by, or they were measured on different rows.
    """
    goal = _goal(challenger.folder)
    evaluations = finished_evaluations(runs_dir)
    ours, theirs = (list(_measurements(one, evaluations)) for one in (challenger, champion))
    for new in ours:
        for old in theirs:
            if new.row_metric == old.row_metric and sorted(new.rows) == sorted(old.rows) and new.rows:
                return _by_rows(new, old, goal)
    if ours and theirs:
        raise RunError(
            f"{challenger.title} and {champion.title} were measured on different rows",
            "an evaluation of both on one corpus; of pretrained models, with one tokenizer too",
            f"run {_EVALUATE} for each, then try again",
        )
    return _by_intervals(challenger, champion, goal)


def _goal(folder: Path) -> Goal:
    task = read_task(folder)
    if not isinstance(task, FinetuneTask):
        return LOWEST_LOSS
    return Goal(metric=task.metric, higher_is_better=task.higher_is_better)


def _measurements(version: Version, evaluations: Sequence[RunFolder]) -> Iterator[Measurement]:
    """What the version's own run measured at its end, then what was measured later."""
    run = version.folder.parent.parent
    folders = [run] if version.folder.name == "best" else []
    folders += [later.path for later in runs_that_measured(version.folder, evaluations)]
    for folder in folders:
        if (found := read_measurement(folder)) is not None and found.rows:
            yield found


def _by_rows(new: Measurement, old: Measurement, goal: Goal) -> Verdict:
    """Better where the interval of the mean difference lies above 0, and the task's metric is no worse."""
    scores, others = pair_rows(new.rows, new.row_scores, old.rows, old.row_scores)
    difference = paired_difference(scores, others)
    gain = new.metrics[goal.metric].value - old.metrics[goal.metric].value
    no_worse = gain >= 0 if goal.higher_is_better else gain <= 0
    what = new.row_metric or "score of a row"
    numbers = (
        f"{what} {_signed(difference)} on the same {difference.n_rows:,} rows; "
        f"{goal.metric} {new.metrics[goal.metric].value:.4f} against {old.metrics[goal.metric].value:.4f}"
    )
    return Verdict(is_better=difference.low > 0 and no_worse, numbers=numbers)


def _signed(difference: Difference) -> str:
    return f"{difference.value:+.4f} (95 %: {difference.low:+.4f} to {difference.high:+.4f})"


def _by_intervals(challenger: Version, champion: Version, goal: Goal) -> Verdict:
    """Better where the two intervals do not touch."""
    new, old = (_recorded(version, f"{goal.prefix}/{goal.metric}") for version in (challenger, champion))
    if new.low is None or new.high is None or old.low is None or old.high is None:
        raise RunError(
            f"{goal.metric} of {challenger.title} or {champion.title} has no interval",
            "an evaluation of both on one corpus",
            f"run {_EVALUATE} for each, then try again",
        )
    is_better = new.low > old.high if goal.higher_is_better else new.high < old.low
    return Verdict(
        is_better=is_better, numbers=f"{goal.metric} {_with_interval(new)} against {_with_interval(old)}"
    )


def _recorded(version: Version, name: str) -> Score:
    """The metric that the bundle was saved with."""
    values = read_part(version.folder, "metrics.json")
    if name not in values:
        raise RunError(
            f"{version.title} has no {name}",
            f"a bundle with {name}",
            "train again, or register another",
        )
    return Score(value=values[name], low=values.get(f"{name}_low"), high=values.get(f"{name}_high"))


def _with_interval(score: Score) -> str:
    return f"{score.value:.4f} (95 %: {score.low:.4f} to {score.high:.4f})"
