"""Find the earlier runs of a step: finished with the same inputs and intact, or resumable."""

from collections.abc import Mapping, Sequence

from pipeline.config.compose import keys_used
from pipeline.errors import BundleError
from pipeline.files import sha256_of
from pipeline.plan.steps import Step
from pipeline.runs import bundle
from pipeline.runs.inputs import MODEL, key_of
from pipeline.runs.record import RunFolder

FINISHED = "FINISHED"


def runs_of(
    step: Step, runs: Sequence[RunFolder], config_task: str | None, model: str | None
) -> list[RunFolder]:
    """Return the runs of a step's stage and task (for a registration, of the same model), newest first."""
    if "task" in keys_used(step.stage):
        return [run for run in runs if run.is_of(step.stage, config_task)]
    found = [run for run in runs if run.is_of(step.stage)]
    return [run for run in found if model is None or (run.record.inputs or {}).get(MODEL) == model]


def newest_finished(runs: Sequence[RunFolder]) -> RunFolder | None:
    """Return the newest finished run that recorded its inputs."""
    return next((run for run in runs if run.record.status == FINISHED and run.record.inputs), None)


def with_inputs(runs: Sequence[RunFolder], inputs: Mapping[str, str]) -> list[RunFolder]:
    """Return the finished runs with exactly these inputs, newest first."""
    key = key_of(inputs)
    return [run for run in runs if run.record.status == FINISHED and key_of(run.record.inputs) == key]


def unfinished_with(runs: Sequence[RunFolder], inputs: Mapping[str, str]) -> RunFolder | None:
    """Return the newest unfinished run with these inputs that has a checkpoint."""
    key = key_of(inputs)
    begun = [run for run in runs if run.record.status != FINISHED and run.last_checkpoint.exists()]
    return next((run for run in begun if key_of(run.record.inputs) == key), None)


def damage(run: RunFolder) -> str | None:
    """Describe what is wrong with the files that a run wrote; None if their hashes are as recorded."""
    for name, digest in (run.record.made or {}).items():
        file = run.path / name
        if not file.is_file():
            return f"{file.parent if file.name == bundle.DONE else file} was deleted or is incomplete"
        if sha256_of(file) != digest:
            return f"{file} has changed since it was written"
        if file.name == bundle.DONE:
            try:
                bundle.check_files(file.parent)
            except BundleError as error:
                return error.problem
    return None
