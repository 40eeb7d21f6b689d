"""Pictures of one explanation: the coloured text, and what the last layer looked at."""

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
#: Attention of more tokens than these cannot be read in a picture.
_TOKENS = 24

#: Between words that no blank parts.
_BETWEEN_IN = 0.04

#: Pieces, and where each begins.
Line = list[tuple[float, Piece]]


def save_words(row: ExplainedRow, file: Path) -> None:
    """The answer and, coloured, the texts that it came from or the tokens that were written."""
    _draw_text(list(_blocks(row))).savefig(file, dpi=_DPI)


def save_attention(row: ExplainedRow, file: Path) -> None:
    """A map for each head of the last layer."""
    attention = row.explanation.attention
    if attention is None:
        return
    weights = {
        name: torch.tensor(heads)[None, :, :_TOKENS, :_TOKENS] for name, heads in attention.heads.items()
    }
    tokens = {side: names[:_TOKENS] for side, names in attention.tokens.items()}
    draw_attention(weights, tokens).savefig(file, dpi=_DPI)


def _blocks(row: ExplainedRow) -> Iterator[list[Piece]]:
    """Paragraphs of the picture."""
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
    """Words with the blanks after them, which may stand on different lines."""
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
    """A character that no installed font has becomes a box."""
    text = "".join(letter if ord(letter) in known or letter.isspace() else "□" for letter in piece.text)
    return replace(piece, text=" ".join(text.split("\n")))


def _tint(piece: Piece) -> tuple[float, float, float, float]:
    weight = piece.weight or 0.0
    return (*(_FOR if weight > 0 else _AGAINST), min(0.7 * abs(weight), 0.7))


def _lines(block: Sequence[Piece], width_in: Callable[[str], float]) -> Iterator[Line]:
    """The block, broken where a line is full."""
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
