"""Plot the learning curves of a run from its spool."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.tracking.spool import records_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = list[tuple[int, float]]
Floats = npt.NDArray[np.float64]

#: The artifact with the picture.
LEARNING_CURVES = "plots/learning_curves.png"
#: The metric without which nothing is plotted.
TRAINED = "train/loss"
_LOSS, _BITS = "loss (nats per token)", "bits per byte"
#: Panel title -> curve label -> metric.
_PANELS = {
    _LOSS: {"train": TRAINED, "validation": "val/loss"},
    _BITS: {"train": "train/bits_per_byte", "validation": "val/bits_per_byte"},
}
#: Metrics that repeat another panel.
_NOT_SHOWN = ("loss", "bits_per_byte", "perplexity")
_MOST_CURVES = 4
#: Colours that colour-blind readers can distinguish. Source: Okabe and Ito 2008, "Color Universal Design".
_COLOURS = {"train": "#0072b2", "validation": "#d55e00"}
_OTHER_COLOURS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_FEW_POINTS = 30
_TOKENS = ("tokens_seen", "train/tokens_seen")


def draw_learning_curves(points: Path, picture: Path) -> bool:
    """Draw the losses and other validation metrics over tokens; return False if nothing was trained."""
    curves = read_curves(points)
    if TRAINED not in curves:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tokens = next((curves[key] for key in _TOKENS if key in curves), None)
    panels = _panels(curves)
    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, panel) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _draw(axes, {label: curves[key] for label, key in panel.items()}, tokens)
        axes.set(title=title, xlabel="tokens" if tokens else "optimizer step")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    return True


def _panels(curves: dict[str, Curve]) -> dict[str, dict[str, str]]:
    """Return the panels that have curves; without bits per byte, the task's metrics take their place."""
    panels = {
        title: kept
        for title, lines in _PANELS.items()
        if (kept := {label: key for label, key in lines.items() if key in curves})
    }
    if _BITS not in panels:
        names = [key.removeprefix("val/") for key in sorted(curves) if key.startswith("val/")]
        own = [name for name in names if name not in _NOT_SHOWN and not name.endswith(("_low", "_high"))]
        if own:
            panels["validation"] = {name: f"val/{name}" for name in own[:_MOST_CURVES]}
    return panels


def _draw(axes: "Axes", panel: dict[str, Curve], tokens: Curve | None) -> None:
    for place, (label, curve) in enumerate(panel.items()):
        steps, y = np.array(curve, np.float64).T
        x = interpolate(steps, tokens) if tokens else steps
        marker = "o" if len(curve) < _FEW_POINTS else None
        colour = _COLOURS.get(label, _OTHER_COLOURS[place])
        axes.plot(x, y, label=label, color=colour, marker=marker, markersize=3.5)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=6)
    axes.legend()


def read_curves(points: Path) -> dict[str, Curve]:
    """Return every metric as (step, value) in order of steps; the later value of a repeated step is kept."""
    found: dict[str, dict[int, float]] = {}
    for record in records_of(points, "metrics"):
        for key, value in record["values"].items():
            found.setdefault(key, {})[record["step"]] = value
    return {key: sorted(values.items()) for key, values in found.items()}


def interpolate(steps: Floats, curve: Curve) -> Floats:
    """Interpolate a curve through the origin linearly at each step, and extrapolate it proportionally."""
    known, sizes = np.array([(0, 0.0), *curve], np.float64).T
    beyond = np.maximum(steps / max(known[-1], 1), 1)
    values: Floats = np.interp(steps, known, sizes) * beyond
    return values
