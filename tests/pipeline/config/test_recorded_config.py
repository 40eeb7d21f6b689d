"""What is recorded of a run: the configuration with all defaults of its classes, typed or not."""

from dataclasses import fields

import pytest
import yaml

from modules.optim import Muon
from pipeline.__main__ import main
from pipeline.config.compose import compose
from pipeline.config.plain import Config
from pipeline.config.recorded import config_hash, filled, with_defaults, without_training
from pipeline.machine.options import TrainerOptions
from pipeline.tasks.qa import ExtractiveQA


def test_what_nobody_typed_is_recorded_with_its_default() -> None:
    plain = with_defaults(compose("pretrain", ["optimizer.momentum=0.9"]))
    expected = Muon(momentum=0.9, update_every="auto")  # as in configs/optimizer/pretrain.yaml
    assert plain["optimizer"] == {"_target_": "modules.optim.Muon", **vars(expected)}
    assert plain["trainer"].keys() - {"_target_"} == {item.name for item in fields(TrainerOptions)}
    assert plain["model"]["backbone"]["layer"]["d_ff"] is None
    assert plain["model"]["head"]["bias"] is False


def test_what_only_the_data_can_tell_is_left_out_and_what_a_factory_makes_is_not() -> None:
    plain = with_defaults(compose("finetune", ["task=classify"]))
    assert "vocab_size" not in plain["model"]["backbone"]
    assert "embedding" not in plain["model"]["head"]
    assert plain["tracking"]["tags"] == {}


def test_a_default_that_is_typed_makes_no_other_configuration() -> None:
    plain, typed = (
        compose("pretrain", []),
        compose("pretrain", ["optimizer.lr=0.004", "trainer.accumulate=1"]),
    )
    assert with_defaults(plain) == with_defaults(typed)
    assert config_hash(plain) == config_hash(typed)
    assert config_hash(plain) != config_hash(compose("pretrain", ["optimizer.lr=0.005"]))


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "tokenizer", "evaluate", "sweep"])
def test_a_recorded_configuration_is_recorded_as_it_is(stage: str) -> None:
    plain = with_defaults(compose(stage, ["task=qa"] if stage == "finetune" else []))
    assert with_defaults(Config(plain)) == plain


def test_to_the_task_of_a_stage_that_reads_a_bundle_nothing_is_added() -> None:
    asked = compose("evaluate", ["task=qa", "task.n_best=3"])
    assert with_defaults(asked)["task"] == {"_target_": "pipeline.tasks.qa.ExtractiveQA", "n_best": 3}
    trained = with_defaults(compose("finetune", ["task=qa"]))["task"]
    assert trained == {"_target_": "pipeline.tasks.qa.ExtractiveQA", **vars(ExtractiveQA())}


def test_a_stage_that_trains_nothing_is_recorded_without_options_of_training() -> None:
    recorded = without_training(with_defaults(compose("evaluate", ["task=qa"])))
    assert recorded["trainer"].keys() == {"_target_", "batch_size", "precision", "accelerator", "val_rows"}
    trained = with_defaults(compose("finetune", ["task=qa"]))
    assert without_training(trained) == trained


def test_show_config_shows_every_key_that_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", "optimizer.beta1=0.8"]) == 0
    shown = Config(yaml.safe_load(capsys.readouterr().out))
    assert (shown.optimizer.lr, shown.optimizer.beta1, shown.trainer.accumulate) == (0.004, 0.8, 1)


def test_filled_goes_through_nodes_without_a_class() -> None:
    node = {"parts": {"optimizer": {"_target_": "modules.optim.Muon", "lr": 1.0}}, "name": "x"}
    assert filled(node, "node")["parts"]["optimizer"]["beta2"] == Muon().beta2
