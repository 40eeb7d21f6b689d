"""Which run of a step is done: finished, of the same inputs, and whole."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.plan.finished import damage, newest_finished, runs_of, unfinished_with, with_inputs
from pipeline.plan.steps import Step
from pipeline.runs.record import RunFolder, RunRecord

QA = Step(name="finetune-qa", stage="finetune", task="qa")


def made(
    folder: Path, name: str, *, status: str = "FINISHED", inputs: Mapping[str, str] | None = None
) -> RunFolder:
    path = folder / name
    path.mkdir()
    record = RunRecord(
        name=name,
        stage="finetune",
        config_hash="x",
        created=name,
        status=status,
        choices={"task": "qa"},
        inputs=None if inputs is None else dict(inputs),
    )
    return RunFolder(path, record)


def test_only_a_finished_run_of_the_same_inputs_is_done(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, "killed", status="KILLED", inputs={"a": "1"}),
        made(tmp_path, "other", inputs={"a": "2"}),
        made(tmp_path, "unknown"),
        made(tmp_path, "same", inputs={"a": "1"}),
    ]
    assert [run.name for run in with_inputs(runs, {"a": "1"})] == ["same"]
    newest = newest_finished(runs)
    assert newest is not None
    assert newest.name == "other"


def test_an_unfinished_run_goes_on_only_with_a_checkpoint_and_the_same_inputs(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, name, status="KILLED", inputs={"a": a})
        for name, a in (("x", "1"), ("y", "1"), ("z", "2"))
    ]
    for run in runs[1:]:
        run.checkpoints.mkdir()
        run.last_checkpoint.touch()
    found = unfinished_with(runs, {"a": "1"})
    assert found is not None
    assert found.name == "y"
    assert unfinished_with(runs, {"a": "3"}) is None


def test_a_run_is_whole_until_a_byte_of_what_it_made_is_another_or_gone(tmp_path: Path) -> None:
    run = made(tmp_path, "x")
    file = run.path / "tokenizer.json"
    file.write_text("{}")
    run.keep(file)
    assert damage(run) is None
    file.write_text("[]")
    assert damage(run) == f"{file} has changed since it was written"
    file.unlink()
    assert damage(run) == f"{file} was deleted or is incomplete"


def test_registrations_of_another_model_are_no_runs_of_the_step(tmp_path: Path) -> None:
    step = Step(name="register-qa", stage="register", task="qa")
    runs = [
        made(tmp_path, name, inputs={"registered model": name}) for name in ("prelude-qa", "prelude-chat")
    ]
    for run in runs:
        run.record.stage = "register"
    assert [run.name for run in runs_of(step, runs, None, "prelude-qa")] == ["prelude-qa"]
    assert runs_of(QA, runs, "qa", None) == []
