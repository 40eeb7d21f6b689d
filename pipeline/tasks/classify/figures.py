"""Plots of classifications: the confusion matrix and the calibration of confidence."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.tasks.classify.metrics import N_BINS, Bools, bin_of
from pipeline.tasks.scoring import Floats, Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: With at most this number of classes, each cell shows its count.
_NUMBERED_CLASSES = 20
_LONGEST_NAME = 40
#: The exponent of the colour scale: less than 1, so that rare confusions are visible next to a full diagonal.
_GAMMA = 0.5
#: Fonts with Chinese characters; most machines have one of them.
_FONTS = (
    "Noto Sans CJK SC",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
    "WenQuanYi Micro Hei",
    "DejaVu Sans",
)


def confusion_figure(target: Ints, predicted: Ints, names: Sequence[str]) -> "Figure":
    """Plot the confusion matrix: shares of each target class, and counts if there are few classes.

    Args:
        target: indices (N,) of the target classes.
        predicted: indices (N,) of the predicted classes.
        names: names of the C classes.
    """
    from matplotlib.colors import PowerNorm

    n_classes = len(names)
    counts = np.bincount(target * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.55 * n_classes if n_classes <= _NUMBERED_CLASSES else 0.2 * n_classes, 3.2, 16))
    figure = new_figure(side + 2.6, side + 1.6)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(_GAMMA, vmin=0, vmax=1))
    figure.colorbar(image, ax=axes, label="share of the target class", shrink=0.6)
    _name_ticks(axes, names, size=6.5 if n_classes > _NUMBERED_CLASSES else 9)
    axes.set(xlabel="prediction", ylabel="target", title=f"{np.trace(counts):,} of {counts.sum():,} correct")
    if n_classes <= _NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.3 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
    return figure


def reliability_figure(confidence: Floats, right: Bools, *, error: float) -> "Figure":
    """Plot accuracy over binned confidence and, below it, the number of predictions in each bin.

    Args:
        confidence: the confidence of each prediction (N,).
        right: whether each prediction is right (N,).
        error: the calibration error, for the title.

    Source: Guo et al. 2017, figure 1.
    """
    bins = np.minimum(bin_of(confidence), N_BINS - 1)
    counts = np.bincount(bins, minlength=N_BINS)
    accuracy = np.bincount(bins, weights=right, minlength=N_BINS) / np.maximum(counts, 1)
    sure = np.bincount(bins, weights=confidence, minlength=N_BINS) / np.maximum(counts, 1)
    middles = (np.arange(N_BINS) + 0.5) / N_BINS
    figure = new_figure(5, 6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = counts > 0
    upper.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1, label="calibrated")
    upper.bar(middles[filled], accuracy[filled], 0.9 / N_BINS, color="tab:blue", alpha=0.75, label="accuracy")
    upper.plot(sure[filled], accuracy[filled], "o", color="tab:orange", markersize=4, label="mean confidence")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"calibration error {error:.3f}")
    upper.legend(loc="upper left", fontsize=8)
    lower.bar(middles, counts, 0.9 / N_BINS, color="0.6")
    lower.set(xlabel="confidence", ylabel="predictions")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return figure


def new_figure(width: float, height: float) -> "Figure":
    """Return a figure of this size in inches, independent of pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _name_ticks(axes: "Axes", names: Sequence[str], *, size: float) -> None:
    shown, font = printable(names)
    places = range(len(names))
    longest = max(map(len, shown))
    axes.set_xticks(places, shown, rotation=90 if longest > 3 else 0, fontsize=size)
    axes.set_yticks(places, shown, fontsize=size)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # a name may contain dollar signs
        label.set_fontfamily(font)


def printable(names: Sequence[str]) -> tuple[list[str], str]:
    """Return abbreviated names and an installed font that can display them, or numbers if there is none."""
    short = [_shortened(" ".join(name.split())) for name in names]
    wanted = {ord(character) for name in short for character in name}
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    for font in reversed(_FONTS):
        if font in installed:
            file = font_manager.findfont(font)
            if wanted <= set(font_manager.get_font(file).get_charmap()):
                return short, font
    return [f"#{place}" for place in range(len(names))], "DejaVu Sans"


def _shortened(name: str) -> str:
    """Cut the middle of a long name: names often differ only at the beginning or the end."""
    kept = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: kept - 1]}…{name[-kept:]}"
