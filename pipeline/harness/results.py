"""Convert the harness's results to metrics: values, intervals and scores per row."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline.evaluation.rows import EVALUATION, HeldOut, recorded
from pipeline.output import write_whole
from pipeline.tasks.finetuning import Score
from pipeline.tasks.scoring import mean_score, share_score

#: The file in a run's folder with the complete results of the harness.
RESULTS = "harness.json"

#: The half-width of a normal distribution's 95 % interval, in standard errors.
NORMAL_95 = 1.96

#: The score of a row is the first of these that its task has; its mean over all tasks is `accuracy`.
ROW_METRICS = ("acc", "exact_match")
OVERALL = "accuracy"

#: Metrics that are shares of rows.
SHARES = (*ROW_METRICS, "acc_norm")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric of one task."""

    task: str
    metric: str
    value: float
    stderr: float | None
    n_rows: int
    n_shots: int
    higher_is_better: bool

    @property
    def name(self) -> str:
        """The recorded name, without the prefix."""
        return f"{self.task}/{self.metric}"

    @property
    def score(self) -> Score:
        """The value with its 95 % interval: Wilson's for a share of rows, else from the standard error."""
        if self.stderr is None:
            return Score(value=self.value, n_rows=self.n_rows)
        n_right = round(self.value * self.n_rows)
        if self.metric.partition(".")[0] in SHARES and abs(self.value * self.n_rows - n_right) < 1e-6:
            return replace(share_score(n_right, self.n_rows), value=self.value)
        half = NORMAL_95 * self.stderr
        return Score(value=self.value, low=self.value - half, high=self.value + half, n_rows=self.n_rows)


@dataclass(frozen=True, kw_only=True)
class HarnessResults:
    """All metrics of all tasks.

    Args:
        on: the tasks, in place of a corpus.
        found: the output of the harness without the samples.
        measured: the metrics.
        row_scores: the scores of rows from 0 to 1, by a digest of the task and the row.
    """

    on: HeldOut
    found: Mapping[str, Any]
    measured: Sequence[Measured]
    row_scores: Mapping[str, float]

    @classmethod
    def read(cls, found: Mapping[str, Any], tasks: Sequence[str]) -> "HarnessResults":
        """Convert the output of `lm_eval.evaluator.evaluate`, including samples."""
        samples = found.get("samples", {})
        return cls(
            on=HeldOut(corpus="+".join(tasks), split="test"),
            found={key: value for key, value in found.items() if key not in ("samples", "config")},
            measured=list(_measured(found)),
            row_scores=dict(_row_scores(samples)),
        )

    @property
    def metrics(self) -> dict[str, float]:
        """The values, standard errors and interval bounds, by recorded name."""
        values = recorded({each.name: each.score for each in self.measured}, self.on.prefix)
        for each in self.measured:
            if each.stderr is not None:
                values[f"{self.on.prefix}/{each.name}_stderr"] = each.stderr
        return values | recorded(self._overall, self.on.prefix)

    @property
    def _overall(self) -> dict[str, Score]:
        return {OVERALL: mean_score(list(self.row_scores.values()))} if self.row_scores else {}

    def save(self, folder: Path) -> None:
        """Write the results to a run's folder, with the scores of rows for the tests of `make compare`."""
        text = json.dumps(self.found, default=str, indent=2, ensure_ascii=False, sort_keys=True)
        write_whole(folder / RESULTS, text + "\n")
        scores = {each.name: each.score for each in self.measured} | self._overall
        record = {
            "task": "harness",
            "metric": OVERALL if self.row_scores else None,
            **asdict(self.on),
            "prefix": self.on.prefix,
            "metrics": {name: asdict(score) for name, score in scores.items()},
            "row_metric": OVERALL if self.row_scores else None,
            "rows": list(self.row_scores),
            "row_scores": list(self.row_scores.values()),
        }
        write_whole(folder / EVALUATION, json.dumps(record))

    def table(self) -> Table:
        """Return a table with one line per metric."""
        table = Table(box=None, pad_edge=False)
        for name in ("task", "metric"):
            table.add_column(name)
        for name in ("value", "± stderr", "rows", "shots"):
            table.add_column(name, justify="right")
        for each in self.measured:
            error = "" if each.stderr is None else f"{each.stderr:.4f}"
            arrow = "↑" if each.higher_is_better else "↓"
            table.add_row(
                each.task, f"{each.metric} {arrow}", f"[bold]{each.value:.4f}[/bold]", error,
                f"{each.n_rows:,}", str(each.n_shots),
            )  # fmt: skip
        return table


def _measured(found: Mapping[str, Any]) -> Iterator[Measured]:
    """Yield the metrics; the filter in a key `METRIC,FILTER` becomes part of the name unless it is `none`."""
    for task, values in found["results"].items():
        n_rows = found.get("n-samples", {}).get(task, {}).get("effective", values.get("sample_len", 0))
        for key, value in values.items():
            metric, _, kept_by = key.partition(",")
            if not kept_by or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{kept_by}")
            yield Measured(
                task=task,
                metric=metric if kept_by == "none" else f"{metric}.{kept_by}",
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                n_rows=int(n_rows),
                n_shots=int(found.get("n-shot", {}).get(task, 0)),
                higher_is_better=found.get("higher_is_better", {}).get(task, {}).get(metric) is not False,
            )


def _row_scores(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[tuple[str, float]]:
    for task, rows in samples.items():
        for number, row in enumerate(rows):
            metric = next((name for name in ROW_METRICS if isinstance(row.get(name), int | float)), None)
            if metric is not None:
                key = [task, number, row.get("prompt_hash"), row.get("target_hash"), row.get("filter")]
                digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
                yield digest, float(row[metric])
