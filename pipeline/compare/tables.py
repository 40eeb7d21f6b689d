"""Tables shown both on the terminal and on the page."""

from collections.abc import Sequence
from typing import Any

from pipeline.compare.comparison import Comparison, Pair, lower_is_better
from pipeline.compare.facts import RunFacts
from pipeline.compare.significance import MIN_ROWS, Difference
from pipeline.compare.verdict import interval_words
from pipeline.compare.wording import ABSENT, LETTERS, duration, large, metric_words, score_words
from pipeline.tasks.finetuning import Score


def metric_table(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a row for each metric: its name, its scores, and which of them is significantly the best."""
    rows = []
    for name, scores in comparison.metrics.items():
        best = _significantly_best(comparison, name)
        rows.append(
            {
                "name": metric_words(name),
                "lower": lower_is_better(name),
                "decides": name == comparison.metric,
                "cells": [(score_words(score), place == best) for place, score in enumerate(scores)],
            }
        )
    return sorted(rows, key=lambda row: not row["decides"])


def _significantly_best(comparison: Comparison, name: str) -> int | None:
    """Return the run that is significantly better than each other run, if there is one.

    The deciding metric is judged by the paired tests, other metrics by intervals that do not overlap.
    """
    scores = {place: score for place, score in enumerate(comparison.metrics[name]) if score is not None}
    sign = -1 if lower_is_better(name) else 1
    best = max(scores, key=lambda place: sign * scores[place].value)
    tested = [pair.difference for pair in comparison.pairs]
    if name == comparison.metric and any(tested):
        won = all(one is not None and one.is_significant and one.value > 0 for one in tested)
    else:
        others = [score for place, score in scores.items() if place != best]
        won = bool(others) and all(_is_apart(scores[best], other, sign) for other in others)
    return best if won else None


def _is_apart(best: Score, other: Score, sign: int) -> bool:
    if best.low is None or best.high is None or other.low is None or other.high is None:
        return False
    return best.low > other.high if sign > 0 else best.high < other.low


def difference_table(comparison: Comparison) -> list[dict[str, str]]:
    """Return a row for the comparison of the best run with each other run."""
    rows = []
    for pair in comparison.pairs:
        difference = pair.difference
        rows.append(
            {
                "pair": f"{LETTERS[pair.first]} − {LETTERS[pair.second]}",
                "difference": f"{difference.value:+.4f}" if difference else ABSENT,
                "numbers": interval_words(difference) if difference else pair.reason,
                "verdict": "" if difference is None else _verdict(pair, difference),
            }
        )
    return rows


def _verdict(pair: Pair, difference: Difference) -> str:
    if not difference.has_enough_rows:
        return f"too few rows (at least {MIN_ROWS} are needed)"
    if not difference.is_significant:
        return "no significant difference"
    better = pair.first if difference.value > 0 else pair.second
    return f"{LETTERS[better]} is significantly better"


def cost_table(runs: Sequence[RunFacts]) -> dict[str, list[str]]:
    """Return the costs of each run in words, without lines that are unknown for all runs."""
    costs = [run.cost for run in runs]
    rows = {
        "seconds": [duration(cost.seconds) for cost in costs],
        "tokens": [large(cost.tokens) for cost in costs],
        "parameters": [large(cost.parameters) for cost in costs],
        "FLOPs of training (matrix products with weights)": [large(cost.flops) for cost in costs],
        "peak memory of the process": [large(cost.peak_bytes, "B") for cost in costs],
        "peak memory of the GPU": [large(cost.peak_gpu_bytes, "B") for cost in costs],
    }
    return {name: cells for name, cells in rows.items() if set(cells) != {ABSENT}}
