"""A run that is named goes on as it was begun; what may change is said and recorded, the rest is refused."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.compose import compose, compose_unchecked
from pipeline.config.plain import Config, select
from pipeline.errors import RunError
from pipeline.files import read_yaml
from pipeline.machine.choice import choose_again
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


@pytest.mark.slow
def test_the_words_that_it_was_begun_with_are_no_changes() -> None:
    begin()
    assert resumed(*WORDS) == resumed()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("seed=1", "seed=7, not 1"),
        (
            "trainer.devices=2",
            "4 rows per step, and would now have 8: trainer.batch_size=4 and ",
        ),
        ("trainer.batch_size=16", "4 rows per step, and would now have 16: trainer.batch_size=16"),
        (
            "trainer.accumulate=2",
            "4 rows per step, and would now have 8: trainer.batch_size=4 and ",
        ),
        ("trainer.precision=fp16", "trainer.precision="),
        ("trainer.curriculum=0.5", "trainer.curriculum=0.0, not 0.5"),
        ("trainer.ema_decay=0.9", "trainer.ema_decay=null, not 0.9"),
        ("trainer.val_rows=3", "trainer.val_rows=null, not 3"),
        ("optimizer.newton_schulz=auto", "optimizer.newton_schulz="),
        ("optimizer=adamw", 'optimizer="pretrain", not "adamw"'),
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
    remedy = "resume=mine trainer.batch_size=" if "rows per step" in told else "start a new run"
    assert remedy in str(refused.value)
    (now,) = list_runs(Path("runs"))
    assert now.record == run.record


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_devices", "remedy"),
    [
        (2, "trainer.batch_size=3 trainer.accumulate=2"),
        (4, "trainer.batch_size=3 trainer.accumulate=1"),
    ],
)
def test_on_other_devices_it_goes_on_with_as_many_rows_in_a_step_and_is_told_how(
    n_devices: int, remedy: str
) -> None:
    run = begin("trainer.accumulate=3")
    with pytest.raises(RunError) as refused:
        resumed(f"trainer.devices={n_devices}")
    assert f"resume=mine {remedy}" in str(refused.value)
    with open_run(resumed(f"trainer.devices={n_devices}", *remedy.split()), label="x") as again:
        recorded = read_yaml(again.path / "config.yaml")["trainer"]
    assert recorded["devices"] * recorded["batch_size"] * recorded["accumulate"] == 12
    assert again.record.chosen is not None
    assert again.record.chosen["trainer.devices"] == n_devices
    changes = [change.partition(" ")[2] for change in again.record.changes or []]
    assert f"trainer.devices: 1 -> {n_devices}" in changes
    assert run.record.changes is None


def test_devices_that_cannot_share_the_rows_of_a_step_are_refused_with_those_that_can() -> None:
    begin("trainer.accumulate=3")
    with pytest.raises(RunError, match=r"a number of devices that divides 12: 1, 2, 3, 4, 6, 12"):
        resumed("trainer.devices=5")


@pytest.mark.slow
def test_the_processes_of_torchrun_are_the_devices_of_a_run_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match=r"have 8: .* on 2 devices.*\n?.*resume=mine trainer.batch_size=2"):
        resumed()
    config = resumed("trainer.batch_size=2")
    assert (config.trainer.devices, config.trainer.batch_size) == (2, 2)
    again = choose_again(config, {"trainer.devices": 1, "trainer.precision": "fp32"})
    assert again == {"trainer.devices": 2, "trainer.precision": "fp32"}


def test_a_run_of_the_typed_configuration_keeps_its_number_of_devices() -> None:
    config = compose("pretrain", ["resume=true"])
    chosen = {"trainer.devices": 1, "trainer.compile": True}
    assert choose_again(config, chosen) == chosen


def test_a_run_that_chose_no_compilation_goes_on_without() -> None:
    assert choose_again(compose("pretrain", ["resume=true"]), {}) == {"trainer.compile": False}


def test_a_run_that_was_compiled_goes_on_without_if_that_is_typed() -> None:
    config = compose("pretrain", ["resume=true", "trainer.compile=false"])
    assert choose_again(config, {"trainer.compile": True}) == {"trainer.compile": False}


def test_a_longer_run_is_accepted_said_and_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    begin(step=150)
    with open_run(resumed("trainer.max_steps=1000", "trainer.num_workers=2"), label="x") as again:
        pass
    told = ("trainer.max_steps: 150 -> 1000", "trainer.num_workers: 0 -> 2")
    assert [change.partition(" ")[2] for change in again.record.changes or []] == [*told]
    assert all(change in capsys.readouterr().err for change in told[:1])
    assert select(read_yaml(again.path / "config.yaml"), "trainer.max_steps") == 1000


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_epochs_decide_where_they_were_given() -> None:
    begin("trainer.max_epochs=2")
    with pytest.raises(RunError, match=r"give trainer\.max_epochs instead"):
        resumed("trainer.max_steps=1000")
    assert resumed("trainer.max_epochs=3").trainer.max_epochs == 3


@pytest.mark.slow
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
