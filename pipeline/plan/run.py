"""Run the steps of `make pipeline`, from raw text to registered models, that are not done yet."""

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pipeline import report
from pipeline.config.compose import keys_used
from pipeline.config.construct import construct
from pipeline.config.grammar import quoted
from pipeline.config.plain import Config
from pipeline.errors import RunError, RunInterrupted
from pipeline.plan.execution import StepProcess
from pipeline.plan.finished import runs_of, unfinished_with, with_inputs
from pipeline.plan.request import Request, check, read_request
from pipeline.plan.steps import REGISTER, Step
from pipeline.plan.summary import Done, PipelineResult, result_of, summarise
from pipeline.plan.verdict import Verdict, judge
from pipeline.registry.kept import Registry
from pipeline.runs.folders import list_runs
from pipeline.runs.record import RunFolder
from pipeline.runs.tags import PIPELINE_ID, tag_steps
from pipeline.signals import name_of
from pipeline.tracking import TrackingOptions
from pipeline.tracking.connection import store_of

AGAIN = "run the same command again: finished steps are kept"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What the runs of a pipeline have in common: a tag, and the suffix of their names."""

    pipeline_id: str
    stamp: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """The position of a step among all steps, for messages."""

    number: int
    of: int
    step: Step

    @property
    def title(self) -> str:
        """The position and the name of the step, such as `2/12 pretrain`."""
        return f"{self.number}/{self.of} {self.step.name}"


def run_pipeline(words: Sequence[str]) -> PipelineResult:
    """Run the steps whose inputs no finished run has, and reuse finished runs for the others.

    Raises:
        ConfigError: if a word is wrong; nothing has run then.
        RunError: if a step failed and printed why; steps that finished before are kept. If a registration
            fails, the others are still tried, and the error is raised at the end.
        RunInterrupted: if a signal stopped a step.
    """
    request = read_request("pipeline", words)
    registry = registry_of(request)
    verdicts = judge_all(request, registry)
    if any(verdict.found is None for verdict in verdicts.values()):
        check(request)
    stamp = f"{datetime.now().astimezone():%m%d-%H%M%S}"
    identity = Identity(pipeline_id=request.own.pipeline_id or f"pipeline-{stamp}", stamp=stamp)
    done, failed = _make_all(request, verdicts, registry, identity)
    ran = [one for one in done.values() if one.ran]
    if ran:
        tag_steps((one.run for one in done.values() if not one.ran), identity.pipeline_id)
    pipeline_id = identity.pipeline_id if ran else None
    summarise(done, pipeline_id, failed=failed)
    _say_omissions(request, registry)
    if failed:
        raise RunError(
            f"{', '.join(failed)} failed; all other steps are done",
            "",
            f"fix the errors above, then {AGAIN}",
        )
    return result_of(done, pipeline_id)


def judge_all(request: Request, registry: Registry) -> dict[str, Verdict]:
    """Return the current verdict on each step."""
    runs = list_runs(request.runs_dir)
    verdicts: dict[str, Verdict] = {}
    for step in request.steps:
        parent = None if step.reads is None else verdicts[step.reads[0]]
        verdicts[step.name] = judge(step, request.configs[step.name], parent, runs=runs, registry=registry)
    return verdicts


def registry_of(request: Request) -> Registry:
    """Return the registry that the pipeline uses, if any."""
    registering = [step for step in request.steps if step.stage == REGISTER]
    if not registering:
        return Registry(None)
    return Registry(store_of(construct(request.configs[registering[0].name].tracking, TrackingOptions)))


def _make_all(
    request: Request, verdicts: dict[str, Verdict], registry: Registry, identity: Identity
) -> tuple[dict[str, Done], list[str]]:
    """Run or keep each step; return the steps that are done, and the names of registrations that failed."""
    done: dict[str, Done] = {}
    failed: list[str] = []
    for number, step in enumerate(request.steps, start=1):
        place = Place(number=number, of=len(request.steps), step=step)
        try:
            done[step.name] = _make(place, request, verdicts, registry, identity)
        except RunInterrupted:
            raise
        except RunError:
            if step.stage != REGISTER:
                raise
            failed.append(step.name)  # its process has printed the error
    return done, failed


def _make(
    place: Place, request: Request, verdicts: dict[str, Verdict], registry: Registry, identity: Identity
) -> Done:
    """Keep the finished run of a step, or run the step."""
    step, config = place.step, request.configs[place.step.name]
    verdict = verdicts[step.name]
    if verdict.waits_for is not None:
        parent = verdicts[verdict.waits_for]
        verdict = judge(step, config, parent, runs=list_runs(request.runs_dir), registry=registry)
    if verdict.found is not None:
        report.say("Step", f"{place.title}: {verdict.reason}")
        verdicts[step.name] = verdict
        return Done(run=verdict.found, how="kept", newest=verdict.newest)
    unfinished = unfinished_with(verdict.candidates, verdict.inputs) if _resumes(step) else None
    goes_on = "" if unfinished is None else f"; resumes from the checkpoint of {unfinished.name}"
    report.console().print()
    report.say("Step", f"{place.title}: {verdict.reason}{goes_on}")
    began = time.monotonic()
    _run(place, verdict, verdicts, unfinished, identity)
    seconds = time.monotonic() - began
    made = _run_made(step, config, verdict, request, identity.pipeline_id)
    verdicts[step.name] = replace(verdict, found=made)
    how = "ran" if unfinished is None else "resumed"
    return Done(run=made, how=how, seconds=seconds, newest=verdict.newest)


def _run(
    place: Place,
    verdict: Verdict,
    verdicts: Mapping[str, Verdict],
    unfinished: RunFolder | None,
    identity: Identity,
) -> None:
    """Run a step in a process of its own.

    Raises:
        RunError: if the step failed.
        RunInterrupted: if a signal was received.
    """
    step = place.step
    words = [f"name={step.name}-{identity.stamp}", *step.words]
    words.append(f"{PIPELINE_ID}={quoted(identity.pipeline_id)}")
    if step.reads is not None and (read := verdicts[step.reads[0]].found) is not None:
        words.append(f"{step.reads[1]}={quoted(read.name)}")
    if unfinished is not None:
        words.append(f"resume={quoted(unfinished.name)}")
    process = StepProcess(step.stage, words)
    code = process.run()
    if process.stopped_by is not None:
        saved = ", and an unfinished training resumes from its checkpoint" if _resumes(step) else ""
        raise RunInterrupted(
            f"the pipeline was stopped by {name_of(process.stopped_by)} in step {place.title}",
            f"{AGAIN}{saved}",
            process.stopped_by,
        )
    if code:
        raise RunError(f"step {place.title} {_ended(code)}", "", f"fix the error above, then {AGAIN}")


def _ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def _resumes(step: Step) -> bool:
    return "resume" in keys_used(step.stage)


def _run_made(step: Step, config: Config, verdict: Verdict, request: Request, pipeline_id: str) -> RunFolder:
    """Return the run that a step has just finished.

    Raises:
        RunError: if there is no such run.
    """
    model = verdict.inputs.get("registered model")
    candidates = runs_of(step, list_runs(request.runs_dir), config.choices.task, model)
    same = with_inputs(candidates, verdict.inputs)
    if same:
        return same[0]
    for run in candidates:
        if run.record.status == "FINISHED" and run.record.pipeline_id == pipeline_id:
            report.say(
                "Note", f"the code or data of {step.name} changed meanwhile, so it will run again next time"
            )
            return run
    raise RunError(
        f"{step.name} ended without a finished run",
        "a finished run in runs_dir",
        "run the same command again",
    )


def _say_omissions(request: Request, registry: Registry) -> None:
    if request.without_registry:
        report.say("Registry", "nothing was registered: tracking is off")
    if registry.unasked is not None:
        report.say("Registry", f"could not check that registrations still exist: {registry.unasked}")
