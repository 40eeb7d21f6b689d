"""Pictures of an explanation: the coloured text, and the attention of the last layer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.evaluation.attention_picture import draw_attention, installed_fonts
from pipeline.explain.shown import ExplainedRow, Piece, coloured, coloured_tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH_IN, _LINE_IN, _DPI = 9.0, 0.3, 120
_MARGIN_IN = 0.25
_FOR, _AGAINST = (0.0, 0.447, 0.698), (0.835, 0.369, 0.0)
#: The maximum number of tokens in an attention map; more are not legible.
_TOKENS = 24

#: The space between words that are not separated by a blank.
_BETWEEN_IN = 0.04

#: Pieces of text with their horizontal positions in inches.
Line = list[tuple[float, Piece]]


def save_words(row: ExplainedRow, file: Path) -> None:
    """Save the answer and, coloured, the texts that it was derived from or the generated tokens."""
    _draw_text(list(_blocks(row))).savefig(file, dpi=_DPI)


def save_attention(row: ExplainedRow, file: Path) -> None:
    """Save an attention map for each head of the last layer."""
    attention = row.explanation.attention
    if attention is None:
        return
    weights = {
        name: torch.tensor(heads)[None, :, :_TOKENS, :_TOKENS] for name, heads in attention.heads.items()
    }
    tokens = {side: names[:_TOKENS] for side, names in attention.tokens.items()}
    draw_attention(weights, tokens).savefig(file, dpi=_DPI)


def _blocks(row: ExplainedRow) -> Iterator[list[Piece]]:
    """Yield the paragraphs of the picture."""
    explanation = row.explanation
    sure = "" if explanation.confidence is None else f"  ({explanation.confidence:.3f})"
    yield [Piece(text=part) for part in _cut(f"Row {row.number}: {explanation.answer or 'no answer'}{sure}")]
    for decision in explanation.decisions:
        yield [Piece(text=part) for part in _cut(f"{decision.about}: {decision.output:.3f}")]
        for pieces in coloured(decision, row.columns).values():
            yield [part for piece in pieces for part in _parts(piece)]
    if explanation.written:
        yield coloured_tokens(explanation.written)


def _parts(piece: Piece) -> list[Piece]:
    return [piece] if piece.weight is not None else [Piece(text=part) for part in _cut(piece.text)]


def _cut(text: str) -> list[str]:
    """Split a text into words with the blanks after them, for line breaks."""
    words = text.split(" ")
    return [f"{word} " for word in words[:-1]] + ([words[-1]] if words[-1] else [])


def _draw_text(blocks: Sequence[Sequence[Piece]]) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fonts = installed_fonts()
    known = frozenset().union(*fonts.values())
    style: dict[str, Any] = {"fontsize": 11, "fontfamily": list(fonts), "parse_math": False}
    probe = Figure(dpi=_DPI)
    renderer = FigureCanvasAgg(probe).get_renderer()  # type: ignore[no-untyped-call]

    def width_in(text: str) -> float:
        drawn = probe.text(0, 0, text, **style)
        size = drawn.get_window_extent(renderer).width / _DPI
        drawn.remove()
        return float(size)

    readable = [[_readable(piece, known) for piece in block] for block in blocks]
    lines = [line for block in readable for line in _lines(block, width_in)]
    height = len(lines) * _LINE_IN + 2 * _MARGIN_IN
    figure = Figure(figsize=(_WIDTH_IN, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    for number, line in enumerate(lines):
        y = 1 - (_MARGIN_IN + (number + 0.5) * _LINE_IN) / height
        for x, piece in line:
            box = {"pad": 1.5, "linewidth": 0, "facecolor": _tint(piece)}
            figure.text(x / _WIDTH_IN, y, piece.text.strip(), va="center", bbox=box, **style)
    return figure


def _readable(piece: Piece, known: frozenset[int]) -> Piece:
    """Replace characters that no installed font has by boxes."""
    text = "".join(letter if ord(letter) in known or letter.isspace() else "□" for letter in piece.text)
    return replace(piece, text=" ".join(text.split("\n")))


def _tint(piece: Piece) -> tuple[float, float, float, float]:
    weight = piece.weight or 0.0
    return (*(_FOR if weight > 0 else _AGAINST), min(0.7 * abs(weight), 0.7))


def _lines(block: Sequence[Piece], width_in: Callable[[str], float]) -> Iterator[Line]:
    """Break the block into lines."""
    line: Line = []
    x, blank = _MARGIN_IN, width_in("a a") - width_in("aa")
    for piece in block:
        text = piece.text.strip()
        size = width_in(text) if text else 0.0
        if line and x + size > _WIDTH_IN - _MARGIN_IN:
            yield line
            line, x = [], _MARGIN_IN
        if text:
            line.append((x, piece))
        x += size + (blank if piece.text[-1:].isspace() else _BETWEEN_IN)
    if line:
        yield line
