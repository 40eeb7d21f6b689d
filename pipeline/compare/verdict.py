"""Summarise a comparison in a few sentences."""

from collections.abc import Sequence

from pipeline.compare.comparison import Comparison, Pair, lower_is_better
from pipeline.compare.significance import MIN_ROWS, Difference
from pipeline.compare.wording import list_words, metric_words, number, ratio_words


def verdict(comparison: Comparison) -> str:
    """Say which run is better, by how much, whether significantly, and at what cost."""
    runs, (best, *others) = comparison.runs, comparison.order
    if comparison.metric is None:
        own = "; ".join(f"{run.name} has {list_words(sorted(run.metrics)) or 'none'}" for run in runs)
        return f"No metric is common to all runs: {own}."
    if any(pair.difference for pair in comparison.pairs):
        sentences = [_judgement(comparison, pair) for pair in comparison.pairs]
    else:
        sentences = [_by_value(comparison, best, others), *_untested(comparison)]
    return " ".join(filter(None, [*sentences, _costs(comparison, best, others[0])]))


def p_words(p_value: float) -> str:
    """Format a p-value."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def interval_words(difference: Difference) -> str:
    """Format the interval, the p-value and the number of rows of a difference."""
    return (
        f"[{difference.low:+.3f}, {difference.high:+.3f}], {p_words(difference.p_value)}, "
        f"paired test on the same {difference.n_rows:,} rows"
    )


def _by_value(comparison: Comparison, best: int, others: Sequence[int]) -> str:
    """Rank the runs by the deciding metric."""
    metric = str(comparison.metric)
    values = [score.value for score in comparison.metrics[metric] if score is not None]
    words = metric_words(metric)
    if all(values[other] == values[best] for other in others):
        return f"All runs have the same {words}, {number(values[best])}."
    side = "lowest" if lower_is_better(metric) else "highest"
    rest = list_words([f"{comparison.runs[other].name} has {number(values[other])}" for other in others])
    return f"{comparison.runs[best].name} has the {side} {words}, {number(values[best])}; {rest}."


def _untested(comparison: Comparison) -> list[str]:
    """Say why the ranking was not tested for significance."""
    reasons = list(dict.fromkeys(pair.reason for pair in comparison.pairs))
    return [f"Not tested for significance: {list_words(reasons)}."] if reasons else []


def _judgement(comparison: Comparison, pair: Pair) -> str:
    """Describe one pair, including a test per row that contradicts the metric."""
    first, second = comparison.runs[pair.first].name, comparison.runs[pair.second].name
    difference = pair.difference
    if difference is None:
        return f"{first} and {second} were not tested against each other: {pair.reason}."
    words = comparison.row_metric
    if not difference.is_significant:
        few = "" if difference.has_enough_rows else f" on fewer than {MIN_ROWS} rows"
        return (
            f"{first} and {second} do not differ significantly{few}: {difference.value:+.3f} {words} "
            f"{interval_words(difference)}."
        )
    if difference.value > 0:
        return (
            f"{first} is significantly better than {second} by {difference.value:.3f} {words} "
            f"{interval_words(difference)}."
        )
    return (
        f"{first} has the better {metric_words(str(comparison.metric))}, but per row {second} is "
        f"significantly better: {difference.value:+.3f} {words} {interval_words(difference)}."
    )


def _costs(comparison: Comparison, best: int, other: int) -> str:
    """Compare the costs of the best run and the next one."""
    first, second = comparison.runs[best], comparison.runs[other]
    if first.stage != second.stage:
        return ""
    seconds, tokens = (
        ratio_words(a, b, what) if a and b else ""
        for a, b, what in (
            (first.cost.seconds, second.cost.seconds, "seconds"),
            (first.cost.tokens, second.cost.tokens, "tokens"),
        )
    )
    parts = [part for part in (seconds, tokens) if part]
    return f"{first.name} took {list_words(parts)} as {second.name}." if parts else ""
