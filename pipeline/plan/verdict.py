"""Decide whether a step has to run, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.config.check import check as check_signatures
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.plan.finished import damage, newest_finished, runs_of, with_inputs
from pipeline.plan.steps import REGISTER, Step
from pipeline.registry.kept import Registry
from pipeline.registry.versions import name_for
from pipeline.runs import bundle
from pipeline.runs.inputs import (
    BUNDLE,
    ROWS,
    cheap_inputs,
    differences,
    inputs_of,
    inputs_of_registration,
)
from pipeline.runs.record import RunFolder
from pipeline.tracking import TrackingOptions
from pipeline.tracking.connection import store_of

#: The most differences that a reason names; `make why` shows all.
_NAMED = 2


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a step has to run, and why.

    Args:
        step: the step.
        found: the finished run that is reused; None if the step has to run.
        reason: why it is kept, or has to run.
        inputs: its current inputs; empty if they include a bundle that does not exist yet.
        newest: its newest finished run.
        candidates: all its runs, newest first.
        waits_for: the step that has to run first, if any.
    """

    step: Step
    found: RunFolder | None
    reason: str
    inputs: Mapping[str, str]
    newest: RunFolder | None
    candidates: Sequence[RunFolder]
    waits_for: str | None = None

    @property
    def changed(self) -> dict[str, tuple[str, str]]:
        """The inputs that differ from those of the newest finished run, as far as they are known."""
        if self.newest is None or not self.inputs:
            return {}
        found = differences(self.newest.record.inputs or {}, self.inputs)
        return {name: pair for name, pair in found.items() if name != BUNDLE or self.waits_for is None}


def judge(
    step: Step,
    config: Config,
    parent: Verdict | None,
    *,
    runs: Sequence[RunFolder],
    registry: Registry,
) -> Verdict:
    """Compare the step's inputs with those of its finished runs.

    Args:
        step: the step.
        config: the unchecked configuration of the step.
        parent: the verdict on the step that it reads from.
        runs: all runs, newest first.
        registry: the registry to check registrations with.

    Raises:
        ConfigError, DataError: if the configuration is wrong, or there is no such corpus.
    """
    candidates = runs_of(step, runs, config.choices.task, _model_of(step, config))
    made = None if parent is None else parent.found or parent.newest
    used = best_of(made) if made is not None and bundle.is_finished(best_of(made)) else None
    known = parent is None or used is not None
    inputs = inputs_now(step, config, used, candidates) if known else {}
    verdict = partial(
        Verdict, step=step, inputs=inputs, newest=newest_finished(candidates), candidates=candidates
    )
    if parent is not None and parent.found is None:
        name = parent.step.name
        return verdict(found=None, reason=f"{name} runs first", waits_for=name)
    harmed = None
    for run in with_inputs(candidates, inputs):
        problem = damage(run) or registry.problem_of(run)
        if problem is None:
            return verdict(found=run, reason="nothing to do: identical inputs")
        harmed = harmed or f"runs again: {problem}"
    return verdict(found=None, reason=harmed or _reason(newest_finished(candidates), inputs))


def best_of(run: RunFolder) -> Path:
    """Return the bundle that the next step reads."""
    return run.bundles / "best"


def inputs_now(
    step: Step, config: Config, used: Path | None, candidates: Sequence[RunFolder]
) -> dict[str, str]:
    """Return the current inputs of a step, with the bundle that it would read."""
    if used is not None and step.stage == REGISTER:
        store = store_of(construct(config.tracking, TrackingOptions)).public_uri
        model = _model_of(step, config) or ""
        return inputs_of_registration(used, model=model, alias=config.alias, store=store)
    cheap = cheap_inputs(config, used=used)
    known = any((run.record.inputs or {}).items() >= cheap.items() for run in candidates)
    if not known:
        check_signatures(config)  # a finished run with the same configuration was checked
    return inputs_of(config, used=used)


def _model_of(step: Step, config: Config) -> str | None:
    return (config.model_name or name_for(step.task or "")) if "model_name" in config else None


def _reason(newest: RunFolder | None, inputs: Mapping[str, str]) -> str:
    if newest is None:
        return "runs for the first time"
    changed = differences(newest.record.inputs or {}, inputs)
    named = [in_words(name, pair) for name, pair in list(changed.items())[:_NAMED]]
    more = len(changed) - len(named)
    return f"runs again: {', '.join(named)}{f', and {more} more' if more else ''}"


def in_words(name: str, pair: tuple[str, str]) -> str:
    """Describe one difference: values if they are short, just `changed` for hashes."""
    if name in (ROWS, BUNDLE) or name.startswith("code "):
        return f"{name} changed"
    return f"{name} {pair[0]} -> {pair[1]}"
