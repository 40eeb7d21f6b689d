"""Draw a lineage: one band per run, oldest on top, from files on the left to metrics on the right.

The SVG is self-contained; text stays text, and each box has its full record as a tooltip.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from xml.etree import ElementTree

from rich.cells import cell_len, set_cell_size

from pipeline.lineage.nodes import FROM, MARKS, Node, State

#: Columns of a band: title -> kinds of nodes in it.
COLUMNS = {
    "files": ("source",),
    "corpus": ("corpus",),
    "tokens": ("token rows", "tokenizer"),
    "run": ("run",),
    "measured": ("evaluation",),
}
#: Kinds that are shown as lines in the box of their run.
IN_THE_RUN = ("seed", "commit", "versions")

_CHARACTER, _LINE, _PADDING, _GAP, _BAND_GAP, _MARGIN, _HEAD = 7.3, 17, 10, 44, 34, 24, 30
_MOST_CHARACTERS = 48
_COLOURS = {"green": "#1a7f37", "red": "#cf222e", "grey": "#8c959f"}
_FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', 'Noto Sans Mono CJK SC', monospace"


@dataclass
class Box:
    """A rectangle with lines of text, of which the first is bold."""

    node: Node
    lines: list[str]
    x: float = 0
    y: float = 0
    width: float = 0

    @property
    def height(self) -> float:
        """Height in pixels."""
        return len(self.lines) * _LINE + 2 * _PADDING - 4


@dataclass
class Band:
    """A run and its inputs, by column."""

    columns: dict[str, list[Box]] = field(default_factory=dict)

    @property
    def height(self) -> float:
        """Height of the tallest column in pixels."""
        return max(_height(boxes) for boxes in self.columns.values())

    @property
    def run(self) -> Box:
        """The box of the run itself."""
        return self.columns["run"][0]


def draw(lineage: Node) -> str:
    """Render the picture as SVG."""
    registered = [node for node in lineage.walk() if node.kind == "registered"]
    bands = [_band(node) for node in lineage.walk() if node.kind == "run"][::-1]
    if registered:
        bands.append(Band({"run": [Box(node, _lines(node)) for node in registered]}))
    width, height, places = _place(bands)
    svg = _canvas(width, height)
    for title, x in places.items():
        _text(svg, x, _MARGIN, title, fill="#57606a")
    for start, end in _arrows(bands):
        _arrow(svg, start, end)
    for band in bands:
        for boxes in band.columns.values():
            for box in boxes:
                _draw_box(svg, box)
    ElementTree.indent(svg)
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def _canvas(width: float, height: float) -> ElementTree.Element:
    size = {"width": f"{width:.0f}", "height": f"{height:.0f}"}
    svg = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width:.0f} {height:.0f}",
            **size,
            "font-family": _FONT,
            "font-size": "12",
        },
    )
    ElementTree.SubElement(svg, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    return svg


def _band(run: Node) -> Band:
    columns: dict[str, list[Box]] = {"run": [Box(run, _run_lines(run))]}
    inner = [node for node in _of_one_run(run) if not _is_line(node)]
    for title, kinds in COLUMNS.items():
        if boxes := [Box(node, _lines(node)) for node in inner if node.kind in kinds]:
            columns[title] = boxes
    return Band(columns)


def _of_one_run(run: Node) -> Iterator[Node]:
    """Yield the descendants of a run, up to the next run."""
    for node in run.made_from:
        if node.kind != "run":
            yield node
            yield from _of_one_run(node)


def _run_lines(run: Node) -> list[str]:
    made_with = [node for node in run.made_from if _is_line(node)]
    return [*_lines(run), *(f"{_mark(node)} {node.kind} {node.title}" for node in made_with)]


def _is_line(node: Node) -> bool:
    """Return whether a node is a line in the box of its run, as is a tokenizer taken from an earlier run."""
    return node.kind in IN_THE_RUN or FROM in node.facts


def _lines(node: Node) -> list[str]:
    facts = [f"{name} {value}" for name, value in node.facts.items()]
    note = [node.note] if node.note else []
    title = node.title if node.kind in ("run", "source", "corpus") else f"{node.kind} {node.title}"
    return [f"{_mark(node)} {title}", *facts, *note]


def _mark(node: Node) -> str:
    return MARKS[node.state][0]


def _place(bands: Sequence[Band]) -> tuple[float, float, dict[str, float]]:
    """Place every box; return the total width and height, and the x position of each column."""
    x, places = float(_MARGIN), {}
    widths = {}
    for title in COLUMNS:
        boxes = [box for band in bands for box in band.columns.get(title, [])]
        if boxes:
            longest = max(cell_len(line) for box in boxes for line in box.lines)
            widths[title] = min(longest, _MOST_CHARACTERS) * _CHARACTER + 2 * _PADDING
            places[title] = x
            x += widths[title] + _GAP
    y = float(_MARGIN + _HEAD)
    for band in bands:
        for title, boxes in band.columns.items():
            top = y + (band.height - _height(boxes)) / 2
            for box in boxes:
                box.x, box.y, box.width = places[title], top, widths[title]
                top += box.height + _PADDING
        y += band.height + _BAND_GAP
    return x - _GAP + _MARGIN, y - _BAND_GAP + _MARGIN, places


def _height(boxes: Sequence[Box]) -> float:
    return sum(box.height for box in boxes) + _PADDING * (len(boxes) - 1)


Point = tuple[float, float]


def _arrows(bands: Sequence[Band]) -> Iterator[tuple[Point, Point]]:
    """Yield arrows from column to column, and from each run to the one that started from it."""
    for band in bands:
        present = [band.columns[title] for title in COLUMNS if title in band.columns]
        for left, right in pairwise(present):
            for start in left:
                for end in right:
                    yield (start.x + start.width, _middle(start)), (end.x, _middle(end))
    for above, below in pairwise(bands):
        middle = above.run.x + above.run.width / 2
        yield (middle, above.run.y + above.run.height), (middle, below.run.y)


def _middle(box: Box) -> float:
    return box.y + box.height / 2


def _arrow(svg: ElementTree.Element, start: Point, end: Point) -> None:
    (x1, y1), (x2, y2) = start, end
    if x1 == x2:
        line = f"M{x1:.1f},{y1:.1f} L{x2:.1f},{y2 - 5:.1f}"
        head = f"{x2 - 4:.1f},{y2 - 7:.1f} {x2 + 4:.1f},{y2 - 7:.1f} {x2:.1f},{y2:.1f}"
    else:
        bend = (x1 + x2) / 2
        line = f"M{x1:.1f},{y1:.1f} C{bend:.1f},{y1:.1f} {bend:.1f},{y2:.1f} {x2 - 5:.1f},{y2:.1f}"
        head = f"{x2 - 7:.1f},{y2 - 4:.1f} {x2 - 7:.1f},{y2 + 4:.1f} {x2:.1f},{y2:.1f}"
    ElementTree.SubElement(
        svg, "path", {"d": line, "fill": "none", "stroke": "#8c959f", "stroke-width": "1.2"}
    )
    ElementTree.SubElement(svg, "polygon", {"points": head, "fill": _COLOURS["grey"]})


def _draw_box(svg: ElementTree.Element, box: Box) -> None:
    group = ElementTree.SubElement(svg, "g")
    ElementTree.SubElement(group, "title").text = "\n".join(box.lines)
    colour = _COLOURS[MARKS[box.node.state][1]]
    shape = {
        "x": f"{box.x:.1f}",
        "y": f"{box.y:.1f}",
        "width": f"{box.width:.1f}",
        "height": f"{box.height:.1f}",
        "rx": "5",
        "fill": "#f6f8fa" if box.node.state in (State.OK, State.UNCHECKED) else "#fff0ee",
        "stroke": colour,
        "stroke-width": "1.5",
    }
    ElementTree.SubElement(group, "rect", shape)
    for number, line in enumerate(box.lines):
        bold = {"font-weight": "bold"} if number == 0 else {}
        y = box.y + _PADDING + _LINE * number + 10
        _text(group, box.x + _PADDING, y, _cut(line), fill="#24292f" if number == 0 else "#57606a", **bold)


def _cut(line: str) -> str:
    if cell_len(line) <= _MOST_CHARACTERS:
        return line
    return set_cell_size(line, _MOST_CHARACTERS - 1).rstrip() + "…"


def _text(parent: ElementTree.Element, x: float, y: float, text: str, **style: str) -> None:
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    element = ElementTree.SubElement(parent, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", **style})
    element.text = printable
