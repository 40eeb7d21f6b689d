"""Explanations as an HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.explain.shown import ExplainedRow, coloured, coloured_tokens, listed
from pipeline.pages.render import render


def render_explanations(
    rows: Sequence[ExplainedRow],
    *,
    title: str,
    notes: Sequence[str] = (),
    pictures: Mapping[int, str] | None = None,
) -> str:
    """Return the page; `pictures` are attention files next to it, by row number."""
    return render(
        Path(__file__).parent / "explanations.html.j2",
        title=title,
        notes=notes,
        pictures=pictures or {},
        rows=[
            {
                "number": row.number,
                "target": row.target,
                "explanation": row.explanation,
                "decisions": [
                    (decision, coloured(decision, row.columns), listed(decision))
                    for decision in row.explanation.decisions
                ],
                "tokens": coloured_tokens(row.explanation.written),
            }
            for row in rows
        ],
    )
