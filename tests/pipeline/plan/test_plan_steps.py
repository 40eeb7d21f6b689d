"""The steps of a pipeline, and which of the user's words each gets."""

import pytest

from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.grammar import quoted
from pipeline.config.groups import groups
from pipeline.errors import ConfigError
from pipeline.plan.execution import StepProcess
from pipeline.plan.request import read_request
from pipeline.plan.steps import plan
from pipeline.tasks.finetuning import FinetuneTask


def words(overrides: list[str], tasks: tuple[str, ...] = ("classify", "qa")) -> dict[str, tuple[str, ...]]:
    return {
        step.name: tuple(word for word in step.words if not word.startswith("task="))
        for step in plan(tasks, overrides)
    }


def test_a_pipeline_goes_from_the_tokenizer_to_a_registered_model_of_each_task() -> None:
    assert list(words([])) == [
        *("tokenizer", "pretrain", "finetune-classify", "evaluate-classify", "finetune-qa", "evaluate-qa"),
        *("register-classify", "register-qa"),
    ]


@pytest.mark.slow
def test_every_task_that_learns_from_labelled_rows_is_a_step_by_default() -> None:
    tasks = {name: construct(compose("show-data", [f"task={name}"]).task) for name in groups()["task"]}
    labelled = {name for name, task in tasks.items() if isinstance(task, FinetuneTask)}
    steps = read_request("pipeline", ["tracking=off"]).steps
    assert {step.task for step in steps if step.stage == "finetune"} == labelled


@pytest.mark.parametrize(
    ("override", "word", "readers"),
    [
        (
            "seed=3",
            "seed=3",
            {"tokenizer", "pretrain", "finetune-classify", "evaluate-classify", "finetune-qa", "evaluate-qa"},
        ),
        ("data=files", "data=files", {"tokenizer", "pretrain"}),
        ("size=small", "size=small", {"pretrain"}),
        ("tokenizer.vocab_size=600", "tokenizer.vocab_size=600", {"tokenizer", "pretrain"}),
        ("finetune-qa.trainer.max_steps=3", "trainer.max_steps=3", {"finetune-qa"}),
        ("finetune.trainer.max_steps=3", "trainer.max_steps=3", {"finetune-classify", "finetune-qa"}),
        ("qa.trainer.batch_size=3", "trainer.batch_size=3", {"finetune-qa", "evaluate-qa"}),
        ("finetune-qa.data=squad", "data=squad", {"finetune-qa", "evaluate-qa"}),
        ("pretrain.data.seed=2", "data.seed=2", {"tokenizer", "pretrain"}),
        ("+finetune-qa.trainer.x=3", "+trainer.x=3", {"finetune-qa"}),
        ("register.alias=best", "alias=best", {"register-classify", "register-qa"}),
        ("pretrain.name=a.b=c", "name=a.b=c", {"pretrain"}),
    ],
)
def test_an_override_reaches_the_steps_that_it_is_meant_for(
    override: str, word: str, readers: set[str]
) -> None:
    assert {name for name, given in words([override]).items() if word in given} == readers
    assert all(given in ((), (word,)) for given in words([override]).values())


def test_a_steps_own_key_wins_over_what_it_takes_over() -> None:
    given = words(["evaluate-qa.data=squad", "finetune-qa.data=squad_v2"])
    assert given["evaluate-qa"] == ("data=squad_v2", "data=squad")


def test_a_pretraining_that_goes_on_from_a_bundle_trains_no_tokenizer() -> None:
    given = words(["init_from=base"])
    assert "tokenizer" not in given
    assert given["pretrain"] == ("init_from=base",)
    assert given["finetune-qa"] == ()


@pytest.mark.slow
@pytest.mark.parametrize("override", ["nothing=1", "finetune-qa.prompts=[a]", "finetune-chat.seed=1", "=3"])
def test_an_override_that_no_step_reads_is_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        words([override])


@pytest.mark.parametrize("name", ["a", "my run (1)", "Tom's, 50 % = {x}; [y]", "一次"])
def test_the_name_of_a_run_reaches_its_step_letter_for_letter(name: str) -> None:
    assert compose("register", [f"bundle={quoted(name)}"]).bundle == name


def test_a_step_that_is_called_wrongly_gives_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert StepProcess("pretrain", ["trainr=1"]).run() == 2
    assert "did you mean trainer?" in capfd.readouterr().err
