"""Composing and checking the configuration: every mistake is one line that says what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import compose as config
from pipeline.config import groups as grouped
from pipeline.config.compose import compose, keys_used
from pipeline.config.groups import CONFIGS, groups
from pipeline.config.model import check_model
from pipeline.config.recorded import config_hash
from pipeline.config.tasks import finetuning_tasks
from pipeline.errors import ConfigError

ROOT = Path(__file__).parents[3]


def refusal(*overrides: str, stage: str = "pretrain") -> str:
    with pytest.raises(ConfigError) as caught:
        check_model(compose(stage, overrides))
    message = str(caught.value)
    assert message.count("\n") == 1
    return message


def test_a_misspelt_key_on_the_command_line_gets_a_suggestion() -> None:
    message = refusal("model.backbone.layer.d_modle=64")
    assert message.startswith(
        "model.backbone.layer.d_modle: LayerSpec takes no such key; expected one of d_model"
    )
    assert message.endswith("did you mean d_model?")


@pytest.mark.parametrize(
    ("override", "stage", "meant"),
    [
        ("learning_rate=1e-3", "pretrain", "optimizer.lr"),
        ("lr=1e-3", "pretrain", "optimizer.lr"),
        ("trainer.lr=1e-3", "pretrain", "optimizer.lr"),
        ("max_steps=5", "finetune", "trainer.max_steps"),
        ("training.max_steps=5", "pretrain", "trainer.max_steps"),
        ("max-step=5", "pretrain", "trainer.max_steps"),
        ("batchsize=4", "pretrain", "trainer.batch_size"),
        ("epochs=4", "pretrain", "trainer.max_epochs"),
        ("num_layers=4", "pretrain", "size.n_layers"),
        ("model.d_model=64", "pretrain", "size.d_model"),
        ("temperature=1", "generate", "sampling.temperature"),
        ("warmup=5", "pretrain", "schedule.warmup_steps or schedule.warmup_fraction"),
    ],
)
def test_a_key_is_searched_in_all_groups(override: str, stage: str, meant: str) -> None:
    assert refusal(override, stage=stage).endswith(f"\nhint: did you mean {meant}?")


def test_keys_are_searched_in_the_options_that_were_chosen() -> None:
    assert refusal("data=files", "train=my.txt").endswith("\nhint: did you mean data.train?")


def test_a_key_that_is_like_no_other_gets_no_suggestion() -> None:
    assert refusal("frobnicate=5").endswith("\nhint: see `make show-config`")


def test_a_misspelt_key_in_a_file_gets_a_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "configs"
    subprocess.run(["cp", "-r", str(CONFIGS), str(copy)], check=True)
    (copy / "trainer" / "default.yaml").write_text(
        "_target_: pipeline.machine.options.TrainerOptions\nmax_stps: 5\n"
    )
    (copy / "experiment" / "typo.yaml").write_text("# @package _global_\nsede: 5\n")
    monkeypatch.setattr(config, "CONFIGS", copy)
    monkeypatch.setattr(grouped, "CONFIGS", copy)
    assert "trainer.max_stps: TrainerOptions takes no such key" in refusal()
    monkeypatch.undo()
    monkeypatch.setattr(config, "CONFIGS", copy)
    monkeypatch.setattr(grouped, "CONFIGS", copy)
    (copy / "trainer" / "default.yaml").write_text("_target_: pipeline.machine.options.TrainerOptions\n")
    message = refusal("experiment=typo")
    assert message.startswith("sede: no such key")
    assert message.endswith("did you mean seed?")


def test_a_key_of_the_root_may_have_keys_of_its_own() -> None:
    assert compose("predict", ["columns.text=sentence"]).columns == {"text": "sentence"}
    with pytest.raises(ConfigError, match=r"columns: .* expected a valid string"):
        compose("predict", ["columns.text=[1]"])


def test_keys_of_a_group_that_is_off_are_answered_with_how_to_turn_it_on() -> None:
    with pytest.raises(ConfigError) as refused:
        compose("finetune", ["peft.rank=8"])
    assert str(refused.value) == (
        "peft.rank: peft=none takes no keys; expected peft=lora with it\nhint: add peft=lora"
    )


@pytest.mark.parametrize(
    ("override", "start"),
    [
        (
            "trainer.max_steps=many",
            "trainer.max_steps: 'many' is not a valid value; expected a valid integer",
        ),
        (
            "trainer.max_steps=0",
            "trainer.max_steps: 0 is not a valid value; expected greater than or equal to 1",
        ),
        (
            "trainer.precision=half",
            "trainer.precision: 'half' is not a valid value; expected 'auto', 'fp32'",
        ),
        ("trainer.compile=1", "trainer.compile: 1 is not a valid value; expected a valid boolean or 'auto'"),
        ("size.d_model=64.5", "size.d_model: 64.5 is not a valid value; expected a valid integer"),
        ("seed=x", "seed: 'x' is not a valid value; expected a valid integer"),
        ("seed=-1", "seed: -1 is not a valid value"),
        ("seed=99999999999999999999", "seed: 99999999999999999999 is not a valid value"),
        ("tokenizer_text_bytes=0", "tokenizer_text_bytes: 0 is not a valid value"),
        ("prompts=hello", "prompts: 'hello' is not a valid value; expected a list, such as [a, b]"),
        ("packing=loose", "packing: 'loose' is not a valid value; expected 'concat' or 'whole'"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_named_with_what_fits(override: str, start: str) -> None:
    assert refusal(override).startswith(start)


def test_a_width_that_heads_do_not_divide_is_refused_before_any_data() -> None:
    message = refusal("size.d_model=100", "size.n_heads=3")
    assert "100" in message
    assert "3" in message
    assert "n_heads" in message


def test_an_unknown_option_of_a_group_lists_the_options() -> None:
    message = refusal("size=smal")
    assert message.startswith("size=smal: no such option; expected one of base, gpt3, large,")
    assert message.endswith("did you mean small?")


def test_an_unknown_corpus_gets_a_suggestion() -> None:
    assert refusal("data=storyword").endswith("did you mean storyworld?")


def test_a_key_that_the_stage_does_not_read_is_refused() -> None:
    assert refusal("size=small", stage="generate").startswith("size: generate takes no such key")


def test_an_unknown_stage_gets_a_suggestion() -> None:
    assert refusal(stage="pretain").endswith("did you mean pretrain?")


@pytest.mark.parametrize("word", ["small", "=3"])
def test_a_word_without_a_key_or_a_value_is_not_an_override(word: str) -> None:
    assert refusal(word).startswith(f"'{word}' is not an override")


def test_an_option_of_a_class_without_options_is_refused() -> None:
    message = refusal("tokenizer=bytes", "tokenizer.vocab_size=9")
    assert message.startswith("tokenizer.vocab_size: Bytes takes no such key; expected none")


def test_a_path_in_chinese_and_a_name_with_umlauts_are_typed_without_quotes() -> None:
    found = compose("pretrain", ["data=files", "data.train=数据.csv", "name=größe"])
    assert (found.data.train, found.name) == ("数据.csv", "größe")


def test_a_class_that_cannot_be_imported_is_named() -> None:
    assert refusal("optimizer._target_=modules.optim.Adan").startswith("optimizer._target_: cannot import")


def test_a_key_absent_from_yaml_can_be_set_if_the_class_has_it() -> None:
    assert compose("pretrain", ["trainer.batch_size=7"]).trainer.batch_size == 7


def test_the_command_line_is_stronger_than_an_experiment_and_that_than_a_group() -> None:
    experiment = compose("pretrain", ["experiment=tinyshakespeare_char"])
    assert experiment.size.max_seq_len == 64
    assert (
        compose("pretrain", ["experiment=tinyshakespeare_char", "size.max_seq_len=32"]).size.max_seq_len == 32
    )


@pytest.mark.slow
def test_the_same_configuration_has_the_same_hash_and_another_has_not() -> None:
    assert config_hash(compose("pretrain", [])) == config_hash(compose("pretrain", []))
    assert config_hash(compose("pretrain", [])) != config_hash(compose("pretrain", ["seed=2"]))
    assert config_hash(compose("pretrain", []), without=["seed"]) == config_hash(
        compose("pretrain", ["seed=2"]), without=["seed"]
    )


def test_a_composed_configuration_cannot_be_changed() -> None:
    composed = compose("pretrain", [])
    with pytest.raises(Exception, match="read-only"):
        composed.seed = 2


def test_questions_are_learnt_at_low_rates_unless_another_optimizer_is_given() -> None:
    assert compose("finetune", ["task=qa"]).choices.optimizer == "finetune"
    assert compose("finetune", ["task=qa", "optimizer=muon"]).choices.optimizer == "muon"


@pytest.mark.parametrize(
    ("stage", "words", "schedule"),
    [
        ("pretrain", [], "linear"),
        ("pretrain", ["schedule=wsd"], "wsd"),
        ("pretrain", ["experiment=tinyshakespeare_char"], "linear"),
        ("pretrain", ["experiment=bert"], "wsd"),
        ("finetune", ["task=chat"], "wsd"),
    ],
)
def test_the_learning_rate_of_a_causal_pretraining_decays_from_the_beginning(
    stage: str, words: list[str], schedule: str
) -> None:
    assert compose(stage, words).choices.schedule == schedule


@pytest.mark.parametrize(
    "word", ["size=small", "size.d_model=64", "model=tutorial", "position=alibi", "tokenizer=bpe"]
)
@pytest.mark.parametrize(
    ("stage", "start"),
    [
        ("finetune", []),
        ("finetune", ["init_from=latest"]),
        ("finetune", ["init_from=mine"]),
        ("pretrain", ["init_from=mine"]),
    ],
)
def test_a_model_beside_the_bundle_that_is_started_from_is_refused(
    word: str, stage: str, start: list[str]
) -> None:
    task = ["task=classify"] if stage == "finetune" else []
    message = refusal(*task, word, *start, stage=stage)
    assert message.startswith(f"{word.split('=', maxsplit=1)[0]} is given, and ")
    assert "expected the model and the tokenizer of the bundle, unchanged" in message
    assert start or message.endswith("or give init_from=none")
    compose(stage, [*task, word, "init_from=none"] if task else [word])


def test_a_tokenizer_file_may_be_named_beside_a_bundle_and_nothing_else_of_the_model() -> None:
    words = ["init_from=mine", "tokenizer=file", "tokenizer.path=a.json"]
    assert compose("finetune", ["task=qa", *words]).tokenizer.path == "a.json"
    assert compose("pretrain", words).tokenizer.path == "a.json"
    assert refusal(*words, "size=tiny").startswith("size is given, and so is init_from=mine")


def stage_of(group: str, option: str) -> str:
    """A stage that an option is for."""
    learns_rows = group == "task" and option in finetuning_tasks()
    return "finetune" if learns_rows or group not in keys_used("pretrain") else "pretrain"


@pytest.mark.parametrize(
    ("group", "option"),
    [(group, option) for group, options in groups().items() for option in options if group != "stage"],
)
def test_every_yaml_composes_and_passes_the_check(
    group: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRELUDE_DATA", "/data")
    required = ["data.train=a.txt"] if (group, option) == ("data", "files") else []
    required += ["tokenizer.path=a.json"] if (group, option) == ("tokenizer", "file") else []
    composed = compose(stage_of(group, option), [f"{group}={option}", *required])
    assert composed.choices[group] == option
    if group != "size" or option not in ("base", "large"):
        check_model(composed)


@pytest.mark.parametrize("stage", groups()["stage"])
def test_every_stage_composes(stage: str) -> None:
    assert compose(stage, []).stage.name == stage


@pytest.mark.slow
def test_a_misspelt_key_is_answered_before_torch_is_imported() -> None:
    python = [sys.executable, "-X", "importtime", "-m", "pipeline"]
    for words in (["show-config"], ["pretrain", "trainer.max_stpes=5"]):  # a whole check fills the cache
        done = subprocess.run([*python, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    imports, said = [], []
    for line in done.stderr.splitlines():
        (imports if line.startswith("import time:") else said).append(line)
    error, hint = said
    assert error.startswith("error: trainer.max_stpes: TrainerOptions takes no such key")
    assert hint == "hint: did you mean max_steps?"
    packages = {line.rpartition("|")[2].strip().split(".")[0] for line in imports}
    assert "hydra" in packages
    assert not packages & {"torch", "numpy", "tokenizers", "datasets", "mlflow", "lightning"}
