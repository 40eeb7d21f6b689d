"""Render the comparison as a self-contained HTML page, without network, scripts or further files."""

from collections.abc import Sequence
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pipeline.compare.charts import COLOURS, draw_curves, draw_intervals
from pipeline.compare.comparison import Comparison
from pipeline.compare.facts import RunFacts
from pipeline.compare.significance import MIN_ROWS
from pipeline.compare.tables import cost_table, difference_table, metric_table
from pipeline.compare.verdict import verdict
from pipeline.compare.wording import ABSENT, LETTERS, list_words, metric_words
from pipeline.pages.render import render
from pipeline.tasks.base import Sample
from pipeline.tasks.finetuning import Score
from pipeline.words import shorten

#: The metrics that are plotted over tokens and seconds.
CURVES = ("train/loss", "val/loss")
#: The most panels of intervals; more would be too small to read.
MOST_INTERVALS = 4
#: The most characters of text in a cell.
MOST_CHARS = 600


def render_page(
    comparison: Comparison, *, mlflow_url: str | None, at: datetime, show_text: bool = True
) -> str:
    """Render the page; without `show_text`, samples are left out, since they may contain text of a corpus."""
    return render(
        Path(__file__).parent / "page.html.j2",
        at=f"{at:%Y-%m-%d %H:%M}",
        title=" · ".join(run.name for run in comparison.runs),
        verdict=verdict(comparison),
        notes=comparison.notes,
        runs=_columns(comparison.runs),
        metrics=metric_table(comparison),
        intervals=draw_intervals(_with_intervals(comparison)),
        tests=difference_table(comparison),
        tests_done=any(pair.difference for pair in comparison.pairs),
        row_metric=comparison.row_metric,
        curves=draw_curves(comparison.runs, CURVES),
        cost=cost_table(comparison.runs),
        settings=comparison.settings,
        samples=_samples(comparison.runs) if show_text else [],
        without_samples=_without_samples(comparison.runs, show_text=show_text),
        provenance={key: (values, len(set(values)) > 1) for key, values in comparison.provenance.items()},
        mlflow_url=mlflow_url,
        absent=ABSENT,
        min_rows=MIN_ROWS,
    )


def _columns(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    return [
        {
            "letter": LETTERS[place],
            "colour": COLOURS[place],
            "name": run.name,
            "title": run.title,
            "created": run.created[:16].replace("T", " "),
            "status": run.status.lower(),
            "folder": str(run.folder),
        }
        for place, run in enumerate(runs)
    ]


def _with_intervals(comparison: Comparison) -> dict[str, list[Score | None]]:
    """Return the metrics to plot: those with intervals, beginning with the one that decides."""
    names = sorted(comparison.metrics, key=lambda name: name != comparison.metric)
    wide = [
        name for name in names if any(score and score.low is not None for score in comparison.metrics[name])
    ]
    return {metric_words(name): comparison.metrics[name] for name in wide[:MOST_INTERVALS]}


def _samples(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """Return rows of samples: the runs' predictions side by side, for the same text or in order."""
    if not any(run.samples for run in runs):
        return []
    rows = []
    for samples in zip_longest(*(run.samples for run in runs)):
        present: list[Sample] = [sample for sample in samples if sample is not None]
        is_same = len({(sample.input, sample.target) for sample in present}) == 1
        rows.append(
            {
                "given": shorten(present[0].input, MOST_CHARS) if is_same else "",
                "target": shorten(present[0].target or "", MOST_CHARS) if is_same else "",
                "cells": [_cell(sample, is_same=is_same) for sample in samples],
            }
        )
    return rows


def _without_samples(runs: Sequence[RunFacts], *, show_text: bool) -> str:
    """Explain which runs' samples are not on the page, and why."""
    if not show_text:
        names = list_words([run.name for run in runs if not run.may_show_text])
        return (
            f"Not shown: the texts of {names} stay in their run folders (log_corpus_text=false). "
            "The page that `make compare` wrote to disk shows them."
        )
    names = list_words([run.name for run in runs if not run.samples])
    return f"There are no samples of {names}." if names else ""


def _cell(sample: Sample | None, *, is_same: bool) -> str:
    if sample is None:
        return ABSENT
    if is_same:
        return shorten(sample.output, MOST_CHARS)
    target = f"\n\ntarget: {sample.target}" if sample.target else ""
    joint = "" if sample.is_continuation else " → "
    return shorten(f"{sample.input}{joint}{sample.output}{target}", MOST_CHARS)
