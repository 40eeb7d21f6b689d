"""The page of `make report`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.compare.charts import COLOURS, draw_curves
from pipeline.compare.facts import RunFacts
from pipeline.compare.wording import ABSENT, LETTERS, duration, large, metric_words, score_words
from pipeline.overview.store import Store, deciding
from pipeline.pages.render import render

#: The number of runs per task whose curves are drawn, best first; more lines cannot be distinguished.
MOST_CURVES = 6
#: The number of table rows that are shown; further rows are collapsed.
MOST_ROWS = 12
CURVES = ("train/loss", "val/loss")


def render_report(store: Store, *, runs_dir: str, at: datetime) -> str:
    """Return the page as HTML; it contains no corpus text."""
    seconds = [run.cost.seconds for run in store.runs if run.cost.seconds]
    tokens = [run.cost.tokens for run in store.runs if run.cost.tokens]
    return render(
        Path(__file__).parent / "report.html.j2",
        at=f"{at:%Y-%m-%d %H:%M}",
        runs_dir=runs_dir,
        n_runs=len(store.runs),
        tasks=[_task(title, runs) for title, runs in store.by_task.items()],
        others=store.others,
        damaged=store.damaged,
        trees=trees(store.runs),
        total={
            "runs": len(store.runs),
            "time": duration(sum(seconds)) if seconds else "",
            "tokens": large(sum(tokens)) if tokens else "",
        },
        most=MOST_ROWS,
    )


def _task(title: str, runs: Sequence[RunFacts]) -> dict[str, Any]:
    drawn = runs[:MOST_CURVES]
    return {
        "title": title,
        "best": _row(runs[0], 0),
        "rows": [_row(run, place) for place, run in enumerate(runs)],
        "curves": draw_curves(drawn, CURVES),
        "n_drawn": len(drawn),
    }


def _row(run: RunFacts, place: int) -> dict[str, Any]:
    best = deciding(run)
    return {
        "name": run.name,
        "letter": LETTERS[place] if place < MOST_CURVES else "",
        "colour": COLOURS[place] if place < MOST_CURVES else "",
        "created": run.created[:16].replace("T", " "),
        "status": run.status.lower(),
        "metric": metric_words(best[0]) if best else "",
        "score": score_words(best[1]) if best else ABSENT,
        "seconds": duration(run.cost.seconds),
        "tokens": large(run.cost.tokens),
        "parameters": large(run.cost.parameters),
    }


def trees(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """Return trees of runs and the runs that started from them; a deleted parent has no title."""
    parents = {run.name: run.provenance.get("parent run") for run in reversed(runs)}
    children: dict[str, list[str]] = {}
    for name, parent in parents.items():
        if parent is not None and parent != name:
            children.setdefault(parent, []).append(name)
    titles = {run.name: run.title for run in runs}
    roots = [name for name in children if parents.get(name) is None]
    return [_tree(name, children, titles, frozenset()) for name in roots]


def _tree(
    name: str, children: Mapping[str, Sequence[str]], titles: Mapping[str, str], above: frozenset[str]
) -> dict[str, Any]:
    below = [child for child in children.get(name, ()) if child not in above]
    return {
        "name": name,
        "title": titles.get(name, "deleted"),
        "children": [_tree(child, children, titles, above | {name}) for child in below],
    }
