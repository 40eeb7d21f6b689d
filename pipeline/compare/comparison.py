"""Compare runs: the metric that decides, the best run, and whether its lead is significant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.compare.facts import Measurement, RunFacts
from pipeline.compare.significance import Difference, count_missing, holm, pair_rows, paired_difference
from pipeline.compare.wording import list_words, metric_words
from pipeline.errors import RunError
from pipeline.tasks.finetuning import Score

#: Metrics for which lower is better, on every split.
LOWER_IS_BETTER = frozenset({"loss", "perplexity", "bits_per_byte", "calibration_error", "reply_perplexity"})
#: The metrics that decide if no task says otherwise; bits per byte do not depend on the tokenizer.
DECIDING = ("val/loss", "test/loss")
ACROSS_TOKENIZERS = ("val/bits_per_byte", "test/bits_per_byte")
#: Keys left out of the differences; `position` and `size` are repeated in the model, which they determine.
NOT_COMPARED = (
    *("name", "resume", "runs_dir", "cache_dir", "tracking", "stage", "choices", "pipeline_id"),
    *("position", "size"),
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The difference of two runs on their common rows: the first minus the second; None if there are none."""

    first: int
    second: int
    difference: Difference | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The contents of the terminal output and the page; runs are identified by their index."""

    runs: list[RunFacts]
    metric: str | None
    order: list[int]
    pairs: list[Pair]
    metrics: Mapping[str, list[Score | None]]
    settings: Mapping[str, list[str]]
    provenance: Mapping[str, list[str]]
    notes: list[str]

    @property
    def row_metric(self) -> str:
        """The name of the score per row, in words."""
        names = {run.measurement.row_metric for run in self.runs if run.measurement}
        name = next(iter(names)) if len(names) == 1 else None
        return metric_words(name) if name else "score per row"


def compare_runs(runs: Sequence[RunFacts]) -> Comparison:
    """Compare runs of one task.

    Raises:
        RunError: if the runs are of different tasks, whose metrics are not comparable.
    """
    _check_tasks(runs)
    metrics = _metrics(runs)
    metric = deciding_metric(runs, metrics)
    order = _order(metric, metrics, len(runs))
    return Comparison(
        runs=list(runs),
        metric=metric,
        order=order,
        pairs=_pairs(runs, order),
        metrics=metrics,
        settings=_differing([_settings(run) for run in runs]),
        provenance=_table([run.provenance for run in runs]),
        notes=[f"{run.name} {note}." for run in runs for note in run.notes] + _notes(runs, metric),
    )


def _check_tasks(runs: Sequence[RunFacts]) -> None:
    """Reject runs of different tasks; fine-tuning and evaluation runs of the same task may be compared."""
    if len({run.task for run in runs if run.task}) > 1:
        what = ", ".join(f"{run.name} is {run.title}" for run in runs)
        raise RunError(
            f"these runs are of different tasks: {what}",
            "runs of one task: the metrics of different tasks are not comparable",
            'name runs of one task, for example RUNS="last:2:classify"',
        )


def deciding_metric(runs: Sequence[RunFacts], metrics: Mapping[str, list[Score | None]]) -> str | None:
    """Return the metric that decides: the task's own, or the loss, or bits per byte if the tokens differ."""
    own = {run.measurement.metric for run in runs if run.measurement and run.measurement.metric}
    tokens = {run.provenance.get("validation rows") for run in runs}
    language = (*DECIDING, *ACROSS_TOKENIZERS) if len(tokens) == 1 else (*ACROSS_TOKENIZERS, *DECIDING)
    candidates = [f"{split}/{name}" for split in ("test", "val") for name in own] if own else list(language)
    complete = [name for name in [*candidates, *language] if name in metrics and None not in metrics[name]]
    return next(iter(complete), None)


def lower_is_better(metric: str) -> bool:
    """Return whether lower values of a metric are better."""
    return metric.rpartition("/")[2] in LOWER_IS_BETTER


def _order(metric: str | None, metrics: Mapping[str, list[Score | None]], n_runs: int) -> list[int]:
    """Return the runs' indices, best first, or in the given order if no metric decides."""
    if metric is None:
        return list(range(n_runs))
    values = [score.value for score in metrics[metric] if score is not None]
    return sorted(range(n_runs), key=lambda i: values[i] if lower_is_better(metric) else -values[i])


def _metrics(runs: Sequence[RunFacts]) -> dict[str, list[Score | None]]:
    """Return metric -> the score of each run; metrics that all runs have come first."""
    names = dict.fromkeys(name for run in runs for name in sorted(run.metrics, key=_test_first))
    table = {name: [run.metrics.get(name) for run in runs] for name in names}
    return dict(sorted(table.items(), key=lambda item: sum(score is None for score in item[1])))


def _test_first(name: str) -> tuple[bool, str]:
    return not name.startswith("test/"), name


def _settings(run: RunFacts) -> dict[str, str]:
    return {key: value for key, value in run.config.items() if _group(key) not in NOT_COMPARED}


def _differing(tables: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return the keys whose values differ; a key does not count for a stage that does not read its group."""
    groups = [{_group(key) for key in table} for table in tables]
    return {
        key: values
        for key, values in _table(tables).items()
        if len({value for value, known in zip(values, groups, strict=True) if _group(key) in known}) > 1
    }


def _group(key: str) -> str:
    """Return the group of a key; the trainer's keys stand for themselves, since stages may read only some."""
    group = key.partition(".")[0]
    return key if group == "trainer" else group


def _table(tables: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for table in tables for key in table)
    return {key: [table.get(key, "") for table in tables] for key in keys}


def _pairs(runs: Sequence[RunFacts], order: Sequence[int]) -> list[Pair]:
    """Pair the best run with each other run; p-values are adjusted for the number of comparisons."""
    best, *others = order
    pairs = [_paired(best, other, runs[best].measurement, runs[other].measurement) for other in others]
    tested = [pair.difference for pair in pairs if pair.difference is not None]
    raised = iter(holm([difference.p_value for difference in tested]))
    return [
        replace(pair, difference=replace(pair.difference, p_value=next(raised))) if pair.difference else pair
        for pair in pairs
    ]


def _paired(first: int, second: int, a: Measurement | None, b: Measurement | None) -> Pair:
    if not a or not b or not a.rows or not b.rows:
        none = not (a and a.rows) and not (b and b.rows)
        reason = "neither run has scores per row" if none else "one of them has no scores per row"
        return Pair(first=first, second=second, difference=None, reason=reason)
    if a.row_metric != b.row_metric:
        return Pair(
            first=first, second=second, difference=None, reason="the rows were scored in different ways"
        )
    scores, others = pair_rows(a.rows, a.row_scores, b.rows, b.row_scores)
    if not len(scores):
        return Pair(
            first=first, second=second, difference=None, reason="they were measured on different rows"
        )
    if n_missing := count_missing(scores, others):
        reason = f"{n_missing:,} of {len(scores):,} rows have a score that is not a finite number"
        return Pair(first=first, second=second, difference=None, reason=reason)
    return Pair(first=first, second=second, difference=paired_difference(scores, others))


def _notes(runs: Sequence[RunFacts], metric: str | None) -> list[str]:
    """Return notes on what makes the metrics less comparable."""
    notes = []
    rows = [set(run.measurement.rows) for run in runs if run.measurement and run.measurement.rows]
    if any(some != rows[0] for some in rows):
        n_common = len(set.intersection(*rows))
        notes.append(
            f"The runs were measured on different rows ({n_common:,} are common to all): metrics are over "
            "each run's own rows, tests over common rows only."
        )
    chosen = [run.name for run in runs if (one := run.measurement) and one.metric and one.chose_weights]
    if chosen:
        notes.append(
            f"The weights of {list_words(chosen)} were selected on the measured validation rows, so the "
            "metrics may be worse on other rows."
        )
    corpora = {run.provenance.get("corpus fingerprint") for run in runs} - {None}
    if not rows and len(corpora) > 1:
        notes.append("The runs read different corpora, so their losses are not over the same text.")
    if metric in DECIDING and len({run.provenance.get("tokenizer") for run in runs} - {None}) > 1:
        notes.append("The runs have different tokenizers, so their losses per token are not comparable.")
    return notes
