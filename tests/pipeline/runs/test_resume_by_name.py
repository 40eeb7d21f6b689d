"""A run that is named goes on as it was begun; what may change is said and recorded, the rest is refused."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.compose import compose, compose_unchecked
from pipeline.config.plain import Config, select
from pipeline.errors import RunError
from pipeline.files import read_yaml
from pipeline.runs.checkpoint_files import AtomicCheckpointIO
from pipeline.runs.folders import RunFolder, list_runs, open_run
from pipeline.runs.resume import with_recorded

WORDS = (
    *("size=nano", "data=files", "data.train=my.txt", "seed=7", "tracking=off", "schedule=cosine"),
    *("trainer.max_steps=150", "trainer.batch_size=4", "optimizer.lr=0.002", "name=mine"),
)


def begin(*words: str, step: int = 120, callbacks: dict[str, Any] | None = None) -> RunFolder:
    """A run that has died with a checkpoint of some step."""
    with (
        contextlib.suppress(ZeroDivisionError),
        open_run(compose("pretrain", (*WORDS, *words)), label="x") as run,
    ):
        saved = {"global_step": step, "callbacks": callbacks or {}}
        AtomicCheckpointIO().save_checkpoint(saved, run.last_checkpoint)
        raise ZeroDivisionError
    return run


def resumed(*words: str) -> Config:
    words = ("resume=mine", *words)
    return with_recorded(compose_unchecked("pretrain", words), words)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_name_alone_is_enough_and_all_is_as_it_was_recorded() -> None:
    run = begin()
    before = (run.path / "config.yaml").read_text(encoding="utf-8")
    config = resumed()
    assert [select(config, key) for key in ("seed", "size.d_model", "trainer.max_steps", "optimizer.lr")] == [
        *(7, select(read_yaml(run.path / "config.yaml"), "size.d_model"), 150, 0.002)
    ]
    with open_run(config, label="x") as again:
        assert again.path == run.path
        assert again.record.changes is None
    after = (run.path / "config.yaml").read_text(encoding="utf-8")
    assert after.replace("resume: mine", "resume: false") == before
    assert again.record.config_hash == run.record.config_hash


def test_the_words_that_it_was_begun_with_are_no_changes() -> None:
    begin()
    assert resumed(*WORDS) == resumed()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("seed=1", "seed=7, not 1"),
        ("trainer.devices=2", "trainer.devices=1, not 2"),
        ("trainer.batch_size=16", "trainer.batch_size=4, not 16"),
        ("trainer.precision=fp16", "trainer.precision="),
        ("trainer.curriculum=0.5", "trainer.curriculum=0.0, not 0.5"),
        ("trainer.ema_decay=0.9", "trainer.ema_decay=null, not 0.9"),
        ("trainer.val_rows=3", "trainer.val_rows=null, not 3"),
        ("optimizer.newton_schulz=auto", "optimizer.newton_schulz="),
        ("optimizer=adamw", 'optimizer="muon", not "adamw"'),
        ("schedule=wsd", 'schedule="cosine", not "wsd"'),
        ("size=tiny", 'size="nano", not "tiny"'),
        ("task=masked_lm", 'task="causal_lm", not "masked_lm"'),
        ("data.train=other.txt", 'data.train="my.txt", not "other.txt"'),
    ],
)
def test_what_its_weights_depend_on_is_refused_and_nothing_is_touched(word: str, told: str) -> None:
    run = begin()
    with pytest.raises(RunError) as refused:
        resumed(word)
    assert f"runs/mine was started with {told}" in str(refused.value)
    assert "start a new run without RESUME" in str(refused.value)
    (now,) = list_runs(Path("runs"))
    assert now.record == run.record


def test_a_longer_run_is_accepted_said_and_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    begin(step=150)
    with open_run(resumed("trainer.max_steps=1000", "trainer.num_workers=2"), label="x") as again:
        pass
    told = ("trainer.max_steps: 150 -> 1000", "trainer.num_workers: 0 -> 2")
    assert [change.partition(" ")[2] for change in again.record.changes or []] == [*told]
    assert all(change in capsys.readouterr().err for change in told[:1])
    assert select(read_yaml(again.path / "config.yaml"), "trainer.max_steps") == 1000


def test_a_finished_run_goes_on_only_if_it_is_to_be_longer_as_it_says() -> None:
    begin(step=150)
    with open_run(resumed(), label="x"):
        pass
    for words in ((), ("trainer.num_workers=2",)):
        with pytest.raises(
            RunError, match=r"is finished; .*\n.* RESUME=mine with a larger trainer\.max_steps"
        ):
            resumed(*words)
    assert resumed("trainer.max_steps=151").trainer.max_steps == 151


def test_an_end_before_the_present_step_is_refused_and_the_end_that_it_advises_is_accepted() -> None:
    begin(step=120)
    with pytest.raises(
        RunError,
        match=r"(?s)is already at step 120, but .* 4; .* give trainer\.max_steps=120 to end it there",
    ):
        resumed("trainer.max_steps=4")
    assert resumed("trainer.max_steps=120").trainer.max_steps == 120


def test_the_length_of_a_run_with_a_curriculum_is_what_it_was() -> None:
    begin("trainer.curriculum=0.5")
    with pytest.raises(
        RunError, match=r"(?s)curriculum=0.5, which is a fraction of its steps; .* start a new run"
    ):
        resumed("trainer.max_steps=1000")


def test_epochs_decide_where_they_were_given() -> None:
    begin("trainer.max_epochs=2")
    with pytest.raises(RunError, match=r"give trainer\.max_epochs instead"):
        resumed("trainer.max_steps=1000")
    assert resumed("trainer.max_epochs=3").trainer.max_epochs == 3


def test_a_run_that_validations_have_ended_is_not_silently_ended_again() -> None:
    begin("trainer.patience=2", callbacks={"EarlyStopping{}": {"wait_count": 2}})
    with pytest.raises(RunError, match=r"(?s)stopped after 2 validations .* add trainer\.patience=null"):
        resumed("trainer.max_steps=1000")
    assert resumed("trainer.max_steps=1000", "trainer.patience=null").trainer.patience is None


def test_a_run_whose_learning_rate_was_decayed_early_is_not_made_longer() -> None:
    begin("trainer.plateau=2", callbacks={"Plateau": {"max_steps": 130}})
    with pytest.raises(
        RunError, match=r"(?s)decays to 0 at step 130; .* trainer\.plateau=null and without RESUME"
    ):
        resumed("trainer.max_steps=1000")
