"""Plot a sweep: the metric by trial, and over the values of each key."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.distributions import CategoricalDistribution

from pipeline.sweep.naming import short_keys
from pipeline.sweep.plan import Plan
from pipeline.sweep.results import Result, best_of
from pipeline.sweep.space import Swept
from pipeline.words import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: State -> (colour, whether filled, label).
_STYLES = {
    "done": ("tab:blue", True, "done"),
    "pruned": ("tab:orange", False, "pruned, at its last validation"),
}
_COLUMNS = 3
_PANEL_INCHES = (4.6, 3.6)
_LONG_WORD = 14


def draw(found: Sequence[Result], plan: Plan, file: Path) -> bool:
    """Plot the trials that have a value; return False if there are none."""
    shown = [one for one in found if one.value is not None and one.state in _STYLES]
    if not shown:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_panels = 1 + len(plan.swept)
    columns = min(_COLUMNS, n_panels)
    rows = math.ceil(n_panels / columns)
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    _history(panels[0], shown, plan)
    for axes, place in zip(panels[1:], range(len(plan.swept)), strict=False):
        _over_key(axes, shown, plan, place)
    for axes in panels[n_panels:]:
        axes.remove()
    for axes in panels[:n_panels:columns]:
        axes.set_ylabel(plan.metric)
    figure.savefig(file, dpi=110)
    return True


def _history(axes: "Axes", shown: Sequence[Result], plan: Plan) -> None:
    """Plot the trials by number, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    for state, (colour, filled, label) in _STYLES.items():
        some = [one for one in shown if one.state == state]
        if some:
            axes.scatter(
                [one.number for one in some],
                [_value(one) for one in some],
                edgecolors=colour,
                facecolors=colour if filled else "none",
                label=label,
                zorder=3,
            )
    done = sorted((one for one in shown if one.state == "done"), key=lambda one: one.number)
    better = min if plan.direction == "minimize" else max
    best: list[float] = []
    for one in done:
        best.append(better(best[-1], _value(one)) if best else _value(one))
    axes.step([one.number for one in done], best, where="post", color="tab:green", label="best so far")
    axes.set(title="trials in order", xlabel="trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)


def _over_key(axes: "Axes", shown: Sequence[Result], plan: Plan, place: int) -> None:
    """Plot the metric over the values of one key: numbers on a numeric axis, words as categories."""
    key = plan.swept[place]
    places = _places(axes, key, [one.values[key.key] for one in shown])
    for state, (colour, filled, _) in _STYLES.items():
        some = [(x, _value(one)) for x, one in zip(places, shown, strict=True) if one.state == state]
        axes.scatter(
            [x for x, _ in some],
            [y for _, y in some],
            edgecolors=colour,
            facecolors=colour if filled else "none",
            alpha=0.8,
            zorder=3,
        )
    if (best := best_of(shown)) is not None:
        axes.scatter([places[0]], [_value(best)], marker="*", s=220, color="tab:green", zorder=4)
    axes.set(title=short_keys([each.key for each in plan.swept])[key.key])
    axes.grid(alpha=0.3)


def _places(axes: "Axes", key: Swept, words: Sequence[str]) -> Sequence[float]:
    """Return the positions of the values on the axis, and set up the axis."""
    numbers = _numbers(words)
    if numbers is None:
        order = [word for word in key.values or [] if word in words]
        axes.set_xticks(range(len(order)), [shorten(word, _LONG_WORD) for word in order])
        axes.set_xlim(-0.5, len(order) - 0.5)
        return [order.index(word) for word in words]
    axes.set_xscale("log" if _spans_factors(numbers) else "linear")
    if isinstance(key.distribution, CategoricalDistribution):
        ticks = sorted(set(numbers))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    return numbers


def _value(one: Result) -> float:
    return math.nan if one.value is None else one.value


def _numbers(words: Sequence[str]) -> list[float] | None:
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


def _spans_factors(numbers: Sequence[float]) -> bool:
    return min(numbers) > 0 and max(numbers) / min(numbers) >= 8
