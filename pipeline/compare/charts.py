"""Draw curves and intervals as SVG that is embedded in the page."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pipeline.compare.curves import SECONDS, TOKENS
from pipeline.compare.facts import RunFacts
from pipeline.compare.wording import LETTERS
from pipeline.tasks.finetuning import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours that colour-blind readers can tell apart. Source: Okabe and Ito 2008, "Color Universal Design".
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
    "#000000", "#7f3c8d", "#a5aa99", "#6b4c2a", "#b3b300", "#d00000",
)  # fmt: skip
#: The titles of the panels of curves.
TITLES = {"train/loss": "training loss", "val/loss": "validation loss"}
_FEW_POINTS = 30
_OVER = {"tokens seen": TOKENS, "seconds of training": SECONDS}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888",
}


def draw_curves(runs: Sequence[RunFacts], metrics: Sequence[str]) -> str:
    """Plot each metric over tokens and over seconds, one line per run; empty if no run has a curve."""
    shown = [metric for metric in metrics if any(metric in run.history.points for run in runs)]
    if not shown:
        return ""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "curves"}):
        figure = Figure(figsize=(11.6, 3.3 * len(shown)), layout="constrained")
        grid = figure.subplots(len(shown), len(_OVER), squeeze=False, sharey="row")
        for axes_row, metric in zip(grid, shown, strict=True):
            for axes, (title, over) in zip(axes_row, _OVER.items(), strict=True):
                _draw(axes, runs, metric, over)
                axes.set(xlabel=title)
            axes_row[0].set(ylabel=TITLES.get(metric, metric))
        return _svg(figure)


def _draw(axes: "Axes", runs: Sequence[RunFacts], metric: str, over: str) -> None:
    for place, run in enumerate(runs):
        curve = run.history.curve(metric, over)
        if curve is not None:
            marker = "o" if len(curve[0]) < _FEW_POINTS else None
            axes.plot(*curve, color=COLOURS[place], label=LETTERS[place], marker=marker, markersize=3.5)
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_formatter(EngFormatter())
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False)


def draw_intervals(metrics: Mapping[str, Sequence[Score | None]]) -> str:
    """Plot a point with its interval for each run, one panel per metric; empty if there are no intervals."""
    if not metrics:
        return ""
    n_runs = max(len(scores) for scores in metrics.values())
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "intervals"}):
        figure = Figure(figsize=(11.6, 0.75 + 0.28 * n_runs), layout="constrained")
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, (title, scores) in zip(panels, metrics.items(), strict=True):
            for place, score in enumerate(scores):
                if score is not None:
                    _draw_interval(axes, place, score)
            axes.set(title=title, yticks=range(n_runs), ylim=(n_runs - 0.5, -0.5))
            axes.set_yticklabels(LETTERS[:n_runs])
            axes.grid(axis="x", alpha=0.25)
            axes.locator_params(axis="x", nbins=4)
        return _svg(figure)


def _draw_interval(axes: "Axes", place: int, score: Score) -> None:
    low = score.value if score.low is None else score.low
    high = score.value if score.high is None else score.high
    axes.plot([low, high], [place, place], color=COLOURS[place], linewidth=2.5, alpha=0.5)
    axes.plot([score.value], [place], color=COLOURS[place], marker="o")


def _svg(figure: Figure) -> str:
    """Return the SVG element, scaled to the width of the page, without XML header, metadata or URLs."""
    buffer = io.StringIO()
    figure.set_canvas(FigureCanvasSVG(figure))
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*"',
        r"<svg \1",
        re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", text, count=1),
        count=1,
    )
