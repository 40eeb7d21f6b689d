"""What the terminal and the page both show, in words."""

from collections.abc import Sequence
from typing import Any

from pipeline.compare.comparison import Comparison, lower_is_better
from pipeline.compare.facts import RunFacts
from pipeline.compare.verdict import interval_words
from pipeline.compare.wording import ABSENT, LETTERS, duration, large, metric_words, score_words


def metric_table(comparison: Comparison) -> list[dict[str, Any]]:
    """Each metric in words, its scores, and the places of the best ones."""
    rows = []
    for name, scores in comparison.metrics.items():
        values = [score.value for score in scores if score is not None]
        best = min(values) if lower_is_better(name) else max(values)
        is_tie = len(set(values)) == 1
        rows.append(
            {
                "name": metric_words(name),
                "lower": lower_is_better(name),
                "decides": name == comparison.metric,
                "cells": [
                    (score_words(score), score is not None and not is_tie and score.value == best)
                    for score in scores
                ],
            }
        )
    return sorted(rows, key=lambda row: not row["decides"])


def difference_table(comparison: Comparison) -> list[dict[str, str]]:
    """The best run against each other one."""
    rows = []
    for pair in comparison.pairs:
        difference = pair.difference
        rows.append(
            {
                "pair": f"{LETTERS[pair.first]} − {LETTERS[pair.second]}",
                "difference": f"{difference.value:+.4f}" if difference else ABSENT,
                "numbers": interval_words(difference) if difference else pair.reason,
                "verdict": ""
                if difference is None
                else "more than chance"
                if difference.is_significant
                else "may be chance",
            }
        )
    return rows


def cost_table(runs: Sequence[RunFacts]) -> dict[str, list[str]]:
    """What each run took, in words; lines that nobody has told are left out."""
    costs = [run.cost for run in runs]
    rows = {
        "seconds": [duration(cost.seconds) for cost in costs],
        "tokens": [large(cost.tokens) for cost in costs],
        "parameters": [large(cost.parameters) for cost in costs],
        "FLOPs of training (products with weights)": [large(cost.flops) for cost in costs],
        "peak memory of the process": [large(cost.peak_bytes, "B") for cost in costs],
        "peak memory of the GPU": [large(cost.peak_gpu_bytes, "B") for cost in costs],
    }
    return {name: cells for name, cells in rows.items() if set(cells) != {ABSENT}}
