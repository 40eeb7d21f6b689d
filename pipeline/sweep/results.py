"""Format the trials of a sweep as a table: in the terminal, as CSV and in Markdown."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pipeline.config.grammar import as_args
from pipeline.sweep.driver import REASON, RUN, SECONDS, TWIN
from pipeline.sweep.naming import short_values
from pipeline.sweep.plan import Plan
from pipeline.sweep.study import ranked, values_of

_STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "interrupted",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """A trial that was started."""

    number: int
    values: dict[str, str]
    shown: dict[str, str]
    state: str
    value: float | None
    seconds: float | None
    run: str | None
    reason: str | None

    @property
    def changed(self) -> str:
        """The values of the trial, on one line."""
        return " ".join(f"{key}={value}" for key, value in self.shown.items())


def result_of(trial: FrozenTrial, study: Study, plan: Plan) -> Result:
    """Return a trial for display."""
    values = values_of(trial, plan)
    same_as = trial.user_attrs.get(TWIN)
    run = trial.user_attrs.get(RUN)
    if same_as is not None:
        run = study.trials[same_as].user_attrs.get(RUN)
    return Result(
        number=trial.number,
        values=values,
        shown=short_values(values),
        state=_STATES[trial.state],
        value=trial.value,
        seconds=trial.user_attrs.get(SECONDS),
        run=run,
        reason=f"the same as trial {same_as}" if same_as is not None else trial.user_attrs.get(REASON),
    )


def results(study: Study, plan: Plan) -> list[Result]:
    """Return all trials that were started, best first."""
    begun = [trial for trial in study.trials if trial.state in _STATES]
    return [result_of(trial, study, plan) for trial in ranked(study, begun)]


def best_of(found: Sequence[Result]) -> Result | None:
    """Return the best of ranked trials, if it is done."""
    return found[0] if found and found[0].state == "done" else None


def command_of(result: Result, plan: Plan) -> str:
    """Return the command that runs a trial again."""
    return f"make {plan.target} {as_args(plan.typed(result.values))}"


def as_csv(found: Sequence[Result], metric: str) -> str:
    """Format the trials as CSV, with all digits."""
    text = io.StringIO()
    writer = csv.writer(text)
    keys = list(found[0].values) if found else []
    writer.writerow(["trial", "state", metric, *keys, "seconds", "run", "reason"])
    for one in found:
        known = ["" if each is None else each for each in (one.value, one.seconds, one.run, one.reason)]
        writer.writerow([one.number, one.state, known[0], *one.values.values(), *known[1:]])
    return text.getvalue()


def as_markdown(found: Sequence[Result], metric: str) -> str:
    """Format the trials as a Markdown table."""
    keys = list(found[0].shown) if found else []
    lines = [_row(["trial", metric, *keys, "state", "seconds", "run"]), "|" + "---|" * (len(keys) + 5)]
    for one in found:
        value = "" if one.value is None else f"{one.value:.4f}"
        state = one.state if one.reason is None else f"{one.state}: {one.reason}"
        seconds = "" if one.seconds is None else f"{one.seconds:.0f}"
        lines.append(_row([str(one.number), value, *one.shown.values(), state, seconds, one.run or ""]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
