"""The command for the same training from nothing says what two runs need to be compared, and no more."""

import subprocess
from typing import Any

import pytest

from pipeline.config.compose import compose
from pipeline.config.plain import Config
from pipeline.config.recorded import with_defaults
from pipeline.runs.start import completed, new_model
from pipeline.stages.finetune.gain import SAME, command_from_scratch
from tests.commands import pipeline_words

DECODER = "model.backbone._target_=modules.transformer.Decoder"


def node(plain: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        plain = plain[part]
    return plain


def split(command: str) -> list[str]:
    """The words of a command as a shell has them."""
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True
    )
    return shown.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["task=classify"], "make finetune-classify INIT=none"),
        (["task=translate", DECODER], f'make finetune-translate INIT=none ARGS="{DECODER}"'),
        (
            ["task=classify", "size=small", "tokenizer.vocab_size=900", DECODER],
            f'make finetune-classify INIT=none ARGS="size=small {DECODER} tokenizer.vocab_size=900"',
        ),
        (["task=qa", "optimizer=muon", "trainer.max_steps=4", "seed=7", "debug=quick"], None),
        (["task=summarize", "model=tutorial", "position=alibi", "dropout=0.2", "runs_dir=other"], None),
        (["task=classify", "data=files", "data.train='my rows (1).csv'", "data.columns.text=正文"], None),
        (["task=classify", "data=files", "data.train=[a.csv,'$b.csv']", "task.label_names=[no,'yes']"], None),
    ],
)
def test_what_is_typed_composes_to_what_differs_in_its_start_alone(
    words: list[str], command: str | None
) -> None:
    config = compose("finetune", [*words, "init_from=none"])
    found = command_from_scratch(config)
    assert found is not None
    assert command in (None, found)
    stage, *overrides = pipeline_words(split(found)[1:]) or []
    ours, theirs = (with_defaults(each) for each in (config, compose(stage, overrides)))
    for key in (*SAME, "tokenizer", "position", "model.backbone", "dropout", "seed", "runs_dir"):
        assert node(ours, key) == node(theirs, key), key


def test_what_the_task_gives_its_backbone_is_not_said() -> None:
    config = compose("finetune", ["task=qa", "init_from=none"])
    typed = completed(config, None, model=new_model(config, {"n_token_types": 1}))
    assert command_from_scratch(typed) == "make finetune-qa INIT=none"


def test_what_cannot_be_typed_is_not_said() -> None:
    config = compose("finetune", ["task=classify", "init_from=none"])
    config = Config({**config, "choices": {**config.choices, "data": "gone"}})
    assert command_from_scratch(config) is None
