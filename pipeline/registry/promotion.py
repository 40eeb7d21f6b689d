"""Decide whether a challenger is significantly better than the champion (paired test on the same rows)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from pipeline.compare.evaluations import finished_evaluations, runs_that_measured
from pipeline.compare.facts import Measurement, read_measurement
from pipeline.compare.significance import MIN_ROWS, Difference, count_missing, pair_rows, paired_difference
from pipeline.compare.verdict import p_words
from pipeline.errors import RunError
from pipeline.registry.versions import Version
from pipeline.runs.folders import RunFolder
from pipeline.runs.stored import read_task
from pipeline.tasks.finetuning import FinetuneTask

_EVALUATE = "`make evaluate-TASK BUNDLE=... DATA=...` (`make evaluate` for a pretrained model)"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the challenger is better, and the numbers that show it."""

    is_better: bool
    numbers: str


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The metric that decides for a task."""

    metric: str
    higher_is_better: bool


#: The metric of a pretrained model.
LOWEST_LOSS = Goal(metric="loss", higher_is_better=False)


def judge(challenger: Version, champion: Version, runs_dir: Path) -> Verdict:
    """Compare two versions on the rows on which both were evaluated.

    Raises:
        RunError: if there are no such rows, too few of them, or rows without a score.
    """
    goal = _goal(challenger.folder)
    evaluations = finished_evaluations(runs_dir)
    ours, theirs = (list(_measurements(one, evaluations)) for one in (challenger, champion))
    same = [
        (new, old)
        for new, old in product(ours, theirs)
        if new.row_metric == old.row_metric and sorted(new.rows) == sorted(old.rows)
    ]
    if same:
        return _by_rows(challenger, champion, *max(same, key=_fitness), goal)
    unknown = [version.title for version, known in ((challenger, ours), (champion, theirs)) if not known]
    raise RunError(
        f"there are no scores per row of {' and '.join(unknown)}"
        if unknown
        else f"{challenger.title} and {champion.title} were measured on different rows",
        "evaluations of both on the same corpus (for pretrained models, with the same tokenizer)",
        f"run {_EVALUATE} for each, then try again",
    )


def _goal(folder: Path) -> Goal:
    task = read_task(folder)
    if not isinstance(task, FinetuneTask):
        return LOWEST_LOSS
    return Goal(metric=task.metric, higher_is_better=task.higher_is_better)


def _measurements(version: Version, evaluations: Sequence[RunFolder]) -> Iterator[Measurement]:
    """Yield the measurement at the end of the version's own run, then later evaluations."""
    run = version.folder.parent.parent
    folders = [run] if version.folder.name == "best" else []
    folders += [later.path for later in runs_that_measured(version.folder, evaluations)]
    for folder in folders:
        if (found := read_measurement(folder)) is not None and found.rows:
            yield found


def _fitness(pair: tuple[Measurement, Measurement]) -> tuple[bool, bool, int]:
    """Return a sort key that prefers enough rows, then rows that selected no weights, then more rows."""
    n_rows = len(pair[0].rows)
    return n_rows >= MIN_ROWS, not any(one.chose_weights for one in pair), n_rows


def _by_rows(
    challenger: Version, champion: Version, new: Measurement, old: Measurement, goal: Goal
) -> Verdict:
    """Judge the challenger better if its scores per row are significantly better, and its metric no worse."""
    scores, others = pair_rows(new.rows, new.row_scores, old.rows, old.row_scores)
    _check_enough(challenger, champion, len(scores))
    if n_missing := count_missing(scores, others):
        raise RunError(
            f"{n_missing:,} of {len(scores):,} rows have a score of {challenger.title} or {champion.title} "
            "that is not a finite number",
            "a score in every row",
            f"run {_EVALUATE} for each, then try again",
        )
    difference = paired_difference(scores, others)
    gain = new.metrics[goal.metric].value - old.metrics[goal.metric].value
    no_worse = gain >= 0 if goal.higher_is_better else gain <= 0
    what = new.row_metric or "score per row"
    numbers = (
        f"{what} {_signed(difference)} on the same {difference.n_rows:,} rows; "
        f"{goal.metric} {new.metrics[goal.metric].value:.4f} against {old.metrics[goal.metric].value:.4f}"
    )
    if new.metric and (new.chose_weights or old.chose_weights):
        numbers += "; these are validation rows, on which weights were selected"
    is_better = difference.is_significant and difference.value > 0 and no_worse
    return Verdict(is_better=is_better, numbers=numbers)


def _check_enough(challenger: Version, champion: Version, n_rows: int) -> None:
    if n_rows < MIN_ROWS:
        raise RunError(
            f"{challenger.title} and {champion.title} were measured on {n_rows:,} rows",
            f"at least {MIN_ROWS} rows, as fewer are seldom representative",
            f"run {_EVALUATE} for each on more rows, then try again",
        )


def _signed(difference: Difference) -> str:
    interval = f"95 %: {difference.low:+.4f} to {difference.high:+.4f}"
    return f"{difference.value:+.4f} ({interval}, {p_words(difference.p_value)})"
