"""Render the comparison for the terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipeline.compare.comparison import Comparison
from pipeline.compare.tables import cost_table, difference_table, metric_table
from pipeline.compare.verdict import verdict
from pipeline.compare.wording import ABSENT, LETTERS


def show(comparison: Comparison) -> RenderableType:
    """Render the verdict, metrics, tests, cost and settings; curves and samples are only on the page."""
    said = Panel(Text(verdict(comparison)), title="[bold]Verdict[/bold]", title_align="left")
    notes = [Text(f"note: {note}", style="yellow") for note in comparison.notes]
    tables = [_legend(comparison), _metrics(comparison)]
    if any(pair.difference for pair in comparison.pairs):
        tables.append(_tests(comparison))
    rest = {"cost": cost_table(comparison.runs), "different settings": comparison.settings}
    tables += [_rows(title, comparison, rows) for title, rows in rest.items() if rows]
    return Group(said, *notes, *(Group(table, Text()) for table in tables))


def _metrics(comparison: Comparison) -> Table:
    table = _table("metric", comparison)
    for row in metric_table(comparison):
        words = row["name"] + (" (lower is better)" if row["lower"] else "")
        name = Text(words, style="bold" if row["decides"] else "")
        table.add_row(name, *(Text(text, style="green" if best else "") for text, best in row["cells"]))
    return table


def _legend(comparison: Comparison) -> Table:
    table = Table.grid(padding=(0, 2))
    for letter, run in zip(LETTERS, comparison.runs, strict=False):
        table.add_row(
            Text(letter, style="bold"), Text(run.name), run.title, run.created[:16].replace("T", " ")
        )
    return table


def _table(first: str, comparison: Comparison) -> Table:
    table = Table(
        first,
        *LETTERS[: len(comparison.runs)],
        header_style="bold",
        pad_edge=False,
        box=None,
        title_justify="left",
    )
    table.columns[0].overflow = "fold"
    return table


def _rows(title: str, comparison: Comparison, rows: Mapping[str, Sequence[str]]) -> Table:
    table = _table(title, comparison)
    for name, cells in rows.items():
        table.add_row(Text(name), *map(_text, cells))
    return table


def _text(cell: str) -> Text:
    return Text(cell or ABSENT, overflow="fold")


def _tests(comparison: Comparison) -> Table:
    table = Table(
        f"difference in {comparison.row_metric}", "", "", "", header_style="bold", box=None, pad_edge=False
    )
    for row in difference_table(comparison):
        table.add_row(row["pair"], row["difference"], Text(row["numbers"]), row["verdict"])
    return table
