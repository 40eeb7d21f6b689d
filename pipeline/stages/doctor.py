"""Find problems with this machine and this project, and fix them on request."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline import doctor as checks
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.doctor import Fact, Finding, Use
from pipeline.errors import TrackingError
from pipeline.tracking import TrackingOptions
from pipeline.tracking.connection import store_of
from pipeline.tracking.options import Store


def doctor(config: Config) -> StageResult:
    """Show versions, hardware, disk usage and all findings; with `fix=true`, fix those that can be fixed."""
    options = construct(config.tracking, TrackingOptions)
    facts, machine = checks.versions(), checks.hardware()
    store, findings = _find(config, options, facts)
    use = checks.disk_use(Path(config.runs_dir), Path(config.cache_dir), store)
    report.page(Group(_versions(facts), Text(), _hardware(machine), Text(), _disk(use)))
    done = _fix(findings) if config.fix else []
    _show(findings, fix=config.fix)
    for line in done:
        report.say("Done", line)
    n_fixed = len(done)
    return StageResult(stage="doctor", metrics={"found": float(len(findings)), "fixed": float(n_fixed)})


def _find(config: Config, options: TrackingOptions, facts: list[Fact]) -> tuple[Store | None, list[Finding]]:
    """Return the store and all findings."""
    runs_dir, cache_dir = Path(config.runs_dir), Path(config.cache_dir)
    findings = [*checks.version_problems(facts), *checks.disk_problems(runs_dir, cache_dir, Path())]
    store = None
    try:
        store = store_of(options) if options.enabled else None
        findings += checks.open_in_mlflow(options, runs_dir)
    except TrackingError as error:
        findings.append(Finding(what=error.problem, remedy=error.remedy))
    findings += checks.dead_runs(runs_dir)
    findings += checks.unsynced(runs_dir)
    findings += checks.leftovers(runs_dir, cache_dir)
    findings += checks.damaged_bundles(runs_dir, deep=config.deep)
    findings += checks.damaged_rows(cache_dir, deep=config.deep)
    return store, findings


def _fix(findings: Sequence[Finding]) -> list[str]:
    return [_tried(finding.fix) for finding in findings if finding.fix is not None]


def _tried(fix: Callable[[], str]) -> str:
    """Return what was done, or why it failed: one failure must not prevent the other fixes."""
    try:
        return fix()
    except OSError as error:
        return f"failed: {error.filename}: {error.strerror}"
    except TrackingError as error:
        return f"failed: {error.problem}"


def _show(findings: Sequence[Finding], *, fix: bool) -> None:
    if not findings:
        report.say("Findings", "none: no problems were found")
        return
    table = Table("", "found", "remedy", box=None, pad_edge=False)
    for finding in findings:
        table.add_row("✓" if finding.fix else "!", Text(finding.what, overflow="fold"), finding.remedy)
    report.panel(f"{len(findings)} {'finding' if len(findings) == 1 else 'findings'}", table)
    n_fixable = sum(finding.fix is not None for finding in findings)
    if n_fixable and not fix:
        report.say("Next", f'make doctor ARGS="fix=true"  fixes the {n_fixable} marked ✓')


def _versions(facts: Sequence[Fact]) -> Table:
    table = Table("version", "found", "required", "tested with", box=None, pad_edge=False)
    for fact in facts:
        mark = "" if fact.fits else "  ✗"
        table.add_row(fact.what, f"{fact.found}{mark}", fact.required, fact.tested)
    return table


def _hardware(facts: Sequence[Fact]) -> Table:
    table = Table("hardware", "", box=None, pad_edge=False)
    for fact in facts:
        table.add_row(fact.what, fact.found)
    return table


def _disk(use: Sequence[Use]) -> Table:
    table = Table("disk", box=None, pad_edge=False)
    table.add_column("files", justify="right")
    table.add_column("size", justify="right")
    table.add_column("")
    for sort in use:
        table.add_row(sort.what, f"{sort.n_files:,}", f"{sort.n_bytes / 1e6:,.1f} MB", sort.remedy)
    total = sum(sort.n_bytes for sort in use)
    table.add_row("all", f"{sum(sort.n_files for sort in use):,}", f"{total / 1e6:,.1f} MB", "")
    return table
