"""Write an HTML page about all runs."""

from datetime import datetime
from pathlib import Path

from pipeline import report as talk
from pipeline.commands import StageResult
from pipeline.config.plain import Config
from pipeline.output import check_writable, write_whole
from pipeline.overview.store import read_store

#: The default output file.
PAGE = Path("report.html")


def report(config: Config) -> StageResult:
    """Read all runs, including damaged ones, and write the page.

    Raises:
        RunError: if the page cannot be written.
    """
    page = Path(config.output) if config.output else PAGE
    check_writable(page)
    store = read_store(Path(config.runs_dir))
    from pipeline.overview.page import render_report  # charts take a second to import

    write_whole(page, render_report(store, runs_dir=config.runs_dir, at=datetime.now().astimezone()))
    damaged = f", {len(store.damaged):,} that cannot be read" if store.damaged else ""
    talk.say("Runs", f"{len(store.runs):,}{damaged}")
    talk.say("Page", talk.short(page.absolute()))
    return StageResult(stage="report", output=[str(page)], is_said=True)
