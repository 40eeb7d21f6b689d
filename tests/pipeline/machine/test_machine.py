"""What is left to the machine is chosen once: recorded, kept by a run that goes on, found as it was asked."""

import contextlib
from pathlib import Path

import pytest

from modules import hardware
from pipeline.config.compose import compose
from pipeline.config.plain import Config, select, to_plain
from pipeline.files import read_yaml
from pipeline.lineage.reproduction import recorded_config
from pipeline.machine.choice import choose_for_machine, describe_machine, with_chosen
from pipeline.runs.folders import RunFolder, open_run


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        {
            "stage": {"name": "pretrain", "uses": []},
            "choices": {"task": "causal_lm"},
            "name": "mine",
            "resume": False,
            "runs_dir": str(tmp_path / "runs"),
            "optimizer": {"_target_": "modules.optim.Muon", "update_every": "auto"},
            "model": {
                "backbone": {"layer": {"d_model": 768}, "max_seq_len": 1024},
                "head": {},
                "init": "gpt2",
            },
            "trainer": {"_target_": "pipeline.machine.options.TrainerOptions", "accelerator": "cpu"},
        }
    )


def changed(config: Config, **groups: dict[str, object]) -> Config:
    plain = to_plain(config)
    return Config(plain | {group: plain[group] | values for group, values in groups.items()})


def begin(config: Config) -> RunFolder:
    """A run that dies with a checkpoint."""
    with contextlib.suppress(ZeroDivisionError), open_run(config, label="x") as run:
        run.checkpoints.mkdir(exist_ok=True)
        run.last_checkpoint.touch()
        raise ZeroDivisionError
    return run


def on_a_machine(monkeypatch: pytest.MonkeyPatch, bf16_speedup: float) -> None:
    monkeypatch.setattr(hardware, "bf16_speedup_on_cpu", lambda: bf16_speedup)
    monkeypatch.setattr("pipeline.machine.choice.bf16_speedup_on_cpu", lambda: bf16_speedup)


CHOSEN = ("trainer.precision", "optimizer.newton_schulz", "optimizer.update_every", "trainer.devices")


def test_a_run_records_what_was_chosen_for_its_machine_and_keeps_it_on_another(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_machine(monkeypatch, 0.02)
    run = begin(config)
    recorded = read_yaml(run.path / "config.yaml")
    assert [select(recorded, key) for key in CHOSEN] == ["fp32", "fp32", 2, 1]
    on_a_machine(monkeypatch, 3.9)
    again = begin(Config({**config, "resume": True}))
    assert again.resumed
    assert read_yaml(run.path / "config.yaml")["trainer"] == recorded["trainer"]
    now = with_chosen(config, again.record.chosen)
    assert [select(now, key) for key in CHOSEN] == ["fp32", "fp32", 2, 1]
    made_again = recorded_config(again)
    assert [select(made_again, key) for key in CHOSEN] == ["fp32", "fp32", 2, 1]
    elsewhere = {"tracking": {"_target_": "pipeline.tracking.TrackingOptions", "enabled": False}}
    assert recorded_config(again, elsewhere).tracking == elsewhere["tracking"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], 4), (["size=base", "trainer.accumulate=16"], 1), (["model=tutorial", "task=denoise"], 4)],
)
def test_matrices_wait_for_fewer_steps_if_a_step_has_many_tokens(words: list[str], expected: int) -> None:
    config = compose("pretrain", ["optimizer=pretrain", "trainer.batch_size=8", *words])
    assert choose_for_machine(config)["optimizer.update_every"] == expected


@pytest.mark.parametrize("words", [["optimizer=muon"], ["task=masked_lm"], ["optimizer=adamw"]])
def test_an_optimizer_without_this_choice_is_described_too(words: list[str]) -> None:
    config = compose("pretrain", words)
    chosen = choose_for_machine(config)
    assert "every" not in describe_machine(with_chosen(config, chosen), chosen)


def test_what_is_typed_is_not_chosen(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, 0.02)
    typed = {
        "trainer": {"precision": "bf16", "compile": True},
        "optimizer": {"newton_schulz": "bf16", "update_every": 3},
    }
    run = begin(changed(config, **typed))
    assert run.record.chosen == {"trainer.devices": 1}
    assert read_yaml(run.path / "config.yaml")["optimizer"]["newton_schulz"] == "bf16"


def test_an_unfinished_run_from_before_compiling_was_a_choice_is_found_and_is_not_compiled(
    config: Config,
) -> None:
    before = begin(changed(config, trainer={"compile": False}))
    assert "trainer.compile" not in (before.record.chosen or {})
    again = begin(Config({**config, "resume": True}))
    assert again.path == before.path
    assert again.record.chosen == {**(before.record.chosen or {}), "trainer.compile": False}


def test_an_optimizer_without_a_choice_gets_none(config: Config) -> None:
    run = begin(changed(config, optimizer={"_target_": "modules.optim.AdamW"}))
    assert "optimizer.newton_schulz" not in (run.record.chosen or {})


def test_the_run_says_what_was_chosen_and_why(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, 0.02)
    chosen = begin(config).record.chosen
    told = describe_machine(with_chosen(config, chosen), chosen)
    assert told.endswith(
        ", fp32, Newton-Schulz in fp32 every 2 steps (bf16 is 0.02 times as fast as fp32 here)"
    )
