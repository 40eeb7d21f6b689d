"""Show which inputs of a step differ from those of its newest finished run (`make why`)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline import report
from pipeline.commands import StageResult
from pipeline.plan.finished import unfinished_with
from pipeline.plan.request import Request, find_step, read_request
from pipeline.plan.run import judge_all, registry_of
from pipeline.plan.verdict import Verdict
from pipeline.tracking.redaction import Redactor
from pipeline.words import shorten

#: The most characters of a value in the table.
_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class WhyResult(StageResult):
    """Why steps would run: name -> reason, and input -> (old value, new value)."""

    reasons: Mapping[str, str] = field(default_factory=dict)
    differences: Mapping[str, Mapping[str, tuple[str, str]]] = field(default_factory=dict)


def explain(words: Sequence[str]) -> WhyResult:
    """Show which inputs of one step differ, or which steps would run.

    Raises:
        ConfigError: if there is no such step, or no step reads an override.
    """
    request = read_request("why", words)
    step = None if request.own.step is None else find_step(request, request.own.step)
    verdicts = judge_all(request, registry_of(request))
    chain = list(verdicts.values()) if step is None else _chain(verdicts, step.name)
    if step is None:
        report.page(_overview(request, chain))
    else:
        report.page(Group(*_blocks(chain)))
    differ = {verdict.step.name: verdict.changed for verdict in chain if verdict.changed}
    reasons = {verdict.step.name: verdict.reason for verdict in chain}
    return WhyResult(stage="why", reasons=reasons, differences=differ)


def _chain(verdicts: Mapping[str, Verdict], name: str) -> list[Verdict]:
    """Return the verdict on a step, preceded by those on the steps that have to run before it."""
    verdict = verdicts[name]
    before = [] if verdict.waits_for is None else _chain(verdicts, verdict.waits_for)
    return [*before, verdict]


def _overview(request: Request, verdicts: Sequence[Verdict]) -> Table:
    table = Table("step", "make pipeline would", "because", box=None, pad_edge=False, header_style="dim")
    for verdict in verdicts:
        reason = verdict.reason if verdict.found is None else f"{verdict.found.name} has the same inputs"
        does = Text("run it", style="bold") if verdict.found is None else Text("keep it", style="dim")
        table.add_row(verdict.step.name, does, Text(reason))
    return table


def _blocks(chain: Sequence[Verdict]) -> list[Text | Table]:
    """Return the text on each step, one below the other."""
    blocks: list[Text | Table] = []
    for verdict in chain:
        blocks.append(Text(_sentence(verdict)))
        if verdict.found is None and verdict.changed:
            blocks.append(_table(verdict))
        blocks.append(Text())
    return blocks[:-1]


def _sentence(verdict: Verdict) -> str:
    name, newest = verdict.step.name, verdict.newest
    if verdict.found is not None:
        return f"{name}: no input differs from {verdict.found.name}, so make pipeline keeps that run"
    unfinished = unfinished_with(verdict.candidates, verdict.inputs)
    resumes = (
        "" if unfinished is None else f"; {unfinished.name} was started with these inputs and will be resumed"
    )
    first = "" if verdict.waits_for is None else f"{verdict.waits_for} has to run first; "
    if newest is None:
        return f"{name}: {first}it has never finished{resumes}"
    if not verdict.changed:
        own = "nothing else differs" if first else verdict.reason
        return f"{name}: {first}{own}{resumes}"
    which = "also, these inputs differ" if first else "these inputs differ"
    return f"{name}: {first}{which} from those of {newest.name}{resumes}"


def _table(verdict: Verdict) -> Table:
    redact = Redactor(os.environ)
    run = verdict.newest.name if verdict.newest else ""
    table = Table("input", f"in {run}", "now", box=None, pad_edge=False, header_style="dim", padding=(0, 2))
    for name, pair in verdict.changed.items():
        table.add_row(name, *(Text(shorten(str(redact.value(name, value)), _SHOWN)) for value in pair))
    return table
