"""Plots of tagged entities: precision, recall and F1 of each type."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.tasks.classify.figures import new_figure, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def types_figure(rows: Sequence[tuple[str, float, float, float, int]]) -> "Figure":
    """Plot precision, recall and F1 of each type, with the number of its target entities.

    Args:
        rows: the type, precision, recall, F1 and number of entities of each type.
    """
    figure = new_figure(6, 1.6 + 0.55 * len(rows))
    axes = figure.subplots()
    places = np.arange(len(rows))
    for shift, (name, column) in enumerate((("precision", 1), ("recall", 2), ("F1", 3))):
        axes.barh(places + 0.25 * (shift - 1), [row[column] for row in rows], 0.25, label=name)
    names, font = printable([row[0] for row in rows])
    axes.set_yticks(places, [f"{name} ({row[4]:,})" for name, row in zip(names, rows, strict=True)])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a type may contain dollar signs
        label.set_fontfamily(font)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), title="entities by type")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure
