"""What a run is made from: what counts, what does not, and what of it differs."""

from pathlib import Path

import pytest

from pipeline.config.compose import compose
from pipeline.runs.inputs import differences, inputs_of, key_of
from pipeline.runs.record import BEGAN_WITH, RunFolder, RunRecord, with_original


def inputs(*words: str, stage: str = "pretrain") -> dict[str, str]:
    return inputs_of(compose(stage, words))


def test_how_to_run_is_no_input() -> None:
    how = ("name=x", "runs_dir=y", "cache_dir=z", "tracking=off", "pipeline_id=p", "resume=true")
    assert inputs(*how) == inputs()


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("seed=2", "seed"),
        ("trainer.max_steps=7", "trainer.max_steps"),
        ("size.n_layers=3", "size.n_layers"),
        ("data.seed=5", "rows"),
        ("tokenizer=bytes", "tokenizer._target_"),
    ],
)
def test_what_is_made_depends_on_the_configuration_and_the_rows(word: str, name: str) -> None:
    assert name in differences(inputs(), inputs(word))


def test_other_bytes_of_the_same_file_are_other_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    words = ("data=files", f"data.train={file}")
    file.write_text("One.\nTwo.\n")
    before = inputs(*words)
    file.write_text("One.\nThree.\n")
    assert list(differences(before, inputs(*words))) == ["rows"]


def test_a_fine_tuning_from_nothing_has_its_own_model_among_its_inputs() -> None:
    names = inputs("task=qa", "init_from=none", stage="finetune")
    assert "size.d_model" in names
    assert "bundle" not in names
    assert "init_from" not in names
    assert "code pipeline/tasks/qa/task.py" in names


def test_differences_name_what_is_new_and_what_is_gone_and_code_last() -> None:
    before = {"a": "1", "code x.py": "f", "b": "2"}
    now = {"a": "3", "code x.py": "g", "c": "4"}
    assert differences(before, now) == {
        "a": ("1", "3"),
        "b": ("2", "-"),
        "c": ("-", "4"),
        "code x.py": ("f", "g"),
    }
    assert list(differences(before, now))[-1] == "code x.py"


def test_a_run_that_goes_on_with_other_inputs_is_made_from_neither(tmp_path: Path) -> None:
    began = {"a": "1", "rows": "r", "code x.py": "c"}
    record = RunRecord(name="r", stage="pretrain", config_hash="x", created="now", inputs=began)
    run = RunFolder(tmp_path, record, resumed=True)
    assert with_original(run, began) == began
    for now, changed in (
        ({**began, "rows": "s"}, {}),
        ({**began, "code x.py": "d"}, {}),
        (began, {"a": "2"}),
    ):
        mixed = with_original(run, now, changed)
        assert mixed is not None
        assert BEGAN_WITH in mixed
        assert key_of(mixed) not in (key_of(began), key_of({**now, **changed}))
    record.inputs = mixed
    assert with_original(run, began) == mixed
    new = RunFolder(tmp_path, record)
    assert with_original(new, {"a": "2"}) == {"a": "2"}


def test_a_run_that_goes_on_by_its_name_alone_is_made_from_what_it_began_with(tmp_path: Path) -> None:
    began = {"size.d_model": "512", "rows": "r"}
    record = RunRecord(name="r", stage="pretrain", config_hash="x", created="now", inputs=began)
    run = RunFolder(tmp_path, record, resumed=True)
    assert with_original(run, {"size.d_model": "64", "seed": "1", "rows": "r"}) == began
