"""Plots of tagged entities: precision, recall and F1 of each type."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def types_figure(rows: Sequence[tuple[str, float, float, float, int]]) -> "Figure":
    """Draw precision, recall and F1 of each type, with the number of its target entities.

    Args:
        rows: type, precision, recall, F1 and number of entities.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.4 + 0.55 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = np.arange(len(rows))
    for shift, (name, column) in enumerate((("precision", 1), ("recall", 2), ("F1", 3))):
        axes.barh(places + 0.25 * (shift - 1), [row[column] for row in rows], 0.25, label=name)
    axes.set_yticks(places, [f"{row[0]} ({row[4]:,})" for row in rows])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a type may hold dollar signs
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), title="entities by type")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    return figure
