"""The Makefile: what a user types arrives in the configuration as it was typed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.grammar import read_overrides
from pipeline.config.groups import groups
from pipeline.config.plain import Config
from pipeline.config.tasks import finetuning_task, finetuning_tasks, pretraining_task
from pipeline.config.variables import VARIABLES
from pipeline.errors import ConfigError
from pipeline.tasks.finetuning import FinetuneTask
from tests.commands import ROOT, call_make, dry_run, pipeline_words

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
DOCUMENTED = re.findall(r"^([\w%-]+):.*## ", MAKEFILE, re.MULTILINE)

#: Tasks that learn from labelled rows; the others learn from raw text.
FINETUNING = [
    name
    for name in groups()["task"]
    if isinstance(construct(compose("show-data", [f"task={name}"]).task), FinetuneTask)
]


#: Texts that a shell, make, Hydra or OmegaConf would each read as something else.
ANY_TEXT = [
    "One sunny morning",
    "Tom's friend's dog",
    'She said: "Come in!"',
    "'Once', \"twice\", [thrice], {a: b}, x=y; z",
    "It cost $5, $(five) or ${seed} and `nothing` more",
    r"a\b and \n",
    "50% # no comment | no pipe > no file & no job * no glob ~",
    "在一个晴朗的早晨，“你好”，她说：",
    "Line <mask> of a",
    "null",
    "7",
    "a space behind ",
    "price $5 and ${HOME}",
    "${oc.env:HOME} ${seed} ${ \\${a} \\\\${b}",
    "C:\\dir\\",
    "--json, -x",
    "two\nlines",
    "???",
]


def composed(*words: str) -> Config:
    """The configuration that `make WORDS` would run with."""
    stage, *overrides = pipeline_words(words) or []
    return compose(stage, overrides)


@pytest.fixture
def bare_folder(tmp_path: Path) -> Path:
    """A folder that holds the Makefile and nothing else."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [[], ["help"]], ids=["make", "make help"])
def test_make_alone_prints_every_documented_target_and_makes_nothing(
    bare_folder: Path, words: list[str]
) -> None:
    done = call_make(*words, folder=bare_folder)
    assert (done.returncode, done.stderr) == (0, "")
    printed = re.findall(r"^  make (\S+) ", done.stdout, re.MULTILINE)
    assert printed == [target.replace("%", "TASK") for target in DOCUMENTED]
    assert [file.name for file in bare_folder.iterdir()] == ["Makefile"]


@pytest.mark.parametrize(("ci", "goes_on"), [("true", False), ("", True)])
def test_ci_ends_where_there_is_no_browser_and_a_person_goes_on_without(
    tmp_path: Path, ci: str, goes_on: bool
) -> None:
    """The script as it is, with a `make` that says what it is called for and has no browser."""
    for folder in (".ci", "bin"):
        (tmp_path / folder).mkdir()
    script = shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    make = tmp_path / "bin" / "make"
    make.write_text('#!/bin/sh\necho "make $1"\n[ "$1" != browser ]\n')
    make.chmod(0o755)
    environ = {"PATH": f"{make.parent}:{os.environ['PATH']}", "CI": ci}
    done = subprocess.run([script], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ("make test-all" in done.stdout) == goes_on
    assert "no Chromium" in (done.stdout if goes_on else done.stderr)


def test_help_fits_in_a_hundred_columns() -> None:
    assert [line for line in call_make().stdout.splitlines() if len(line) > 100] == []


def test_help_lists_the_tasks_of_configs_task_by_kind() -> None:
    listed = dict(re.findall(r"to (pretrain|fine-tune): ([\w, ]+)", call_make().stdout))
    names = {kind: set(re.findall(r"\w+", words)) for kind, words in listed.items()}
    assert names["fine-tune"] == set(finetuning_tasks())
    assert names["pretrain"] == set(groups()["task"]) - set(finetuning_tasks())


@pytest.mark.slow
def test_help_names_every_variable_that_is_an_option() -> None:
    assert {name for name in VARIABLES if f"{name}=" not in call_make().stdout} == set()


def test_every_phony_target_is_documented() -> None:
    phony = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert {target for line in phony for target in line.split()} - {"FORCE"} <= set(DOCUMENTED)


@pytest.mark.parametrize("target", DOCUMENTED)
def test_every_documented_target_can_be_made(target: str) -> None:
    done = call_make("-n", target.replace("%", "masked_lm"))
    assert (done.returncode, done.stderr) == (0, "")


def test_every_stage_has_a_target_for_itself_or_one_for_each_task() -> None:
    targets = {target.removesuffix("-%") for target in DOCUMENTED}
    assert set(groups()["stage"]) <= targets


@pytest.mark.parametrize("task", groups()["task"])
def test_every_task_has_a_target_of_its_own(task: str) -> None:
    target = f"finetune-{task}" if task in FINETUNING else f"pretrain-{task}"
    config = composed(target)
    assert config.choices.task == task
    read = finetuning_task if task in FINETUNING else pretraining_task
    assert read(config)


@pytest.mark.parametrize("stage", ["finetune", "evaluate", "predict", "try"])
@pytest.mark.parametrize("task", FINETUNING)
def test_every_task_that_learns_from_labelled_rows_can_be_trained_measured_and_asked(
    stage: str, task: str
) -> None:
    assert pipeline_words([f"{stage}-{task}"]) == [stage, f"task={task}"]
    assert composed(f"{stage}-{task}").choices.task == task


@pytest.mark.parametrize("task", FINETUNING)
@pytest.mark.parametrize("name", ["rows.jsonl", "my rows/new.csv", "/data/2026-11/rows_1+2.parquet"])
def test_files_and_bundles_to_predict_with_arrive_as_they_were_typed(task: str, name: str) -> None:
    config = composed(f"predict-{task}", f"INPUT={name}", f"OUTPUT={name}", f"BUNDLE={name}")
    assert (config.input, config.output, config.bundle) == (name, name, name)


@pytest.mark.parametrize("task", FINETUNING)
@pytest.mark.parametrize("start", ["none", "latest", "causal_lm-tiny-1123-184239", "/home/me/my runs/a/best"])
def test_init_names_what_a_fine_tuning_starts_from(task: str, start: str) -> None:
    assert composed(f"finetune-{task}", f"INIT={start}").init_from == start


def test_a_fine_tuned_bundle_is_measured_on_the_corpus_that_data_names() -> None:
    config = composed("evaluate-classify", "DATA=imdb", "BUNDLE=mine", "ARGS=trainer.batch_size=4")
    assert (config.choices.task, config.choices.data) == ("classify", "imdb")
    assert (config.bundle, config.trainer.batch_size) == ("mine", 4)


def test_arguments_arrive_as_the_shell_splits_them() -> None:
    config = composed(
        "pretrain", "ARGS=trainer.max_steps=7 'data=files' \"data.train=my poem.txt\" size=small"
    )
    assert config.trainer.max_steps == 7
    assert config.data.train == "my poem.txt"
    assert config.choices.size == "small"


def test_resume_1_means_the_newest_run_and_anything_else_is_a_name() -> None:
    assert composed("pretrain").resume is False
    assert composed("pretrain", "RESUME=1").resume is True
    assert composed("pretrain-denoise", "RESUME=my-run-2").resume == "my-run-2"


def test_data_chooses_a_corpus() -> None:
    assert composed("pretrain", "DATA=tinyshakespeare").choices.data == "tinyshakespeare"
    assert composed("show-data", "DATA=wikitext2").choices.data == "wikitext2"


def test_init_names_the_bundle_to_start_from() -> None:
    assert composed("pretrain", "INIT=latest", "RESUME=1").init_from == "latest"


@pytest.mark.parametrize("bundle", ["latest", "runs/a-b/bundles/best", "/home/me/my runs/bundles/best"])
def test_bundle_names_the_bundle_to_use(bundle: str) -> None:
    assert composed("generate", f"BUNDLE={bundle}").bundle == bundle
    assert composed("evaluate", f"BUNDLE={bundle}", "DATA=files", "ARGS=data.train=a.txt").bundle == bundle


def test_what_is_typed_as_key_and_value_is_an_override() -> None:
    words = ["size=small", "trainer.max_steps=7", "optimizer.lr=1e-3", "data=files", "data.train=my poem.txt"]
    config = composed("pretrain", *words, "ARGS=trainer.batch_size=4")
    assert (config.choices.size, config.choices.data, config.data.train) == ("small", "files", "my poem.txt")
    assert (config.trainer.max_steps, config.optimizer.lr, config.trainer.batch_size) == (7, 1e-3, 4)


@pytest.mark.parametrize("key", ["name", "count", "goal", "comma", "listed"])
def test_no_key_is_mistaken_for_a_variable_of_the_makefile(key: str) -> None:
    assert pipeline_words(["pretrain", f"{key}=mine", "seed=3"]) == ["pretrain", f"{key}=mine", "seed=3"]


@pytest.mark.slow
@pytest.mark.parametrize("value", [text for text in ANY_TEXT if text not in ("null", "7", "???")])
def test_the_value_of_a_key_arrives_letter_for_letter(value: str) -> None:
    config = composed("pretrain", "data=files", f"data.train={value}")
    assert config.data.train == value


@pytest.mark.parametrize(
    ("word", "value"),
    [("[a.txt,b.txt]", ["a.txt", "b.txt"]), ("null", None), ("7", 7), ("true", True), ("{a: 1}", {"a": 1})],
)
def test_the_value_of_a_key_may_be_a_number_a_list_or_a_constant(word: str, value: object) -> None:
    (override,) = read_overrides((pipeline_words(["pretrain", f"data.train={word}"]) or [])[1:])
    assert override.value() == value


def test_values_of_a_sweep_and_keys_of_a_step_arrive_as_they_were_typed() -> None:
    words = ["optimizer.lr=tag(log,interval(1e-3,1e-2))", "seed=1,2"]
    assert sorted((pipeline_words(["sweep", *words]) or [])[1:]) == words
    step = "finetune-qa.trainer.max_steps=300"
    assert pipeline_words(["pipeline", step]) == ["pipeline", step]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("max_steps=100", "trainer.max_steps"),
        ("lr=1e-3", "optimizer.lr"),
        ("LR=1e-3", "optimizer.lr"),
        ("MAX_STEPS=100", "trainer.max_steps"),
        ("INITS=none", "INIT"),
        ("BUNDEL=a", "BUNDLE"),
    ],
)
def test_what_is_no_key_and_no_variable_is_refused_with_the_one_that_was_meant(word: str, meant: str) -> None:
    with pytest.raises(ConfigError) as refused:
        composed("pretrain", word)
    assert str(refused.value).endswith(f"\nhint: did you mean {meant}?")


def test_a_variable_of_the_environment_is_told_where_it_belongs() -> None:
    with pytest.raises(ConfigError, match=r"write it before make: OMP_NUM_THREADS=\.\.\. make"):
        composed("pretrain", "OMP_NUM_THREADS=1")


def test_targets_without_a_configuration_take_no_keys() -> None:
    refused = call_make("-n", "check", "size=small")
    assert refused.returncode == 2
    assert "make check takes no size=" in refused.stderr
    assert call_make("-n", "test", "ARGS=-k masks", "PYTHON=python3").returncode == 0


@pytest.mark.parametrize("target", [target for target in DOCUMENTED if "%" in target])
def test_a_folder_of_its_name_does_not_stand_for_a_command(bare_folder: Path, target: str) -> None:
    name = target.replace("%", "qa")
    for made in (name, "FORCE"):
        (bare_folder / made).mkdir()
    assert "-m pipeline" in call_make("-n", name, folder=bare_folder).stdout


def test_an_option_that_is_not_given_adds_nothing() -> None:
    assert pipeline_words(["pretrain"]) == ["pretrain"]
    assert pipeline_words(["generate"]) == ["generate"]


@pytest.mark.parametrize("prompt", ANY_TEXT)
def test_a_prompt_arrives_letter_for_letter(
    prompt: str,
) -> None:
    assert composed("generate", f"PROMPT={prompt}").prompts == [prompt]


def test_an_environment_that_is_there_is_not_made_again() -> None:
    assert "scripts/setup" not in call_make("-n", "pretrain", "check").stdout


def test_development_tools_are_installed_for_checks_and_tests_only(bare_folder: Path) -> None:
    for file in ("pyproject.toml", "constraints.txt"):
        (bare_folder / file).touch()

    def plan(target: str) -> str:
        return call_make("-n", target, folder=bare_folder, installed=()).stdout

    assert "scripts/setup python3 .venv\n" in plan("pretrain")
    assert "scripts/setup python3 .venv dev" not in plan("pretrain")
    for target in ("check", "test", "test-all"):
        assert "scripts/setup python3 .venv dev" in plan(target)


def test_check_runs_the_linter_the_formatter_and_the_type_checker() -> None:
    assert [words[0] for words in dry_run(["check"])] == [
        ".venv/bin/ruff",
        ".venv/bin/ruff",
        ".venv/bin/mypy",
    ]
    assert dry_run(["check"])[1][1:] == ["format", "--check", "."]


def test_the_quick_tests_leave_out_the_slow_ones_and_test_all_none() -> None:
    assert dry_run(["test"])[-1][-2:] == ["-m", "not slow"]
    everything = dry_run(["test-all", "ARGS=-k masks"])[-1]
    assert everything[-2:] == ["-k", "masks"]
    assert everything.count("-m") == 1  # `-m pytest` alone: no choice by mark


def test_ci_runs_targets_that_exist() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line.split(maxsplit=2)[1:] for line in lines if line.startswith("make ")]
    assert [words[0] for words in commands] == ["check", "weights", "test-all", "pretrain"]
    for words in commands:
        assert dry_run([word.replace('"', "") for word in words])
    tests = {word.strip('"') for line in lines for word in re.findall(r"tests/[\w/.]+", line)}
    assert tests
    assert {name for name in tests if not (ROOT / name).exists()} == set()


def test_clean_removes_caches_and_keeps_runs_and_what_was_tracked(bare_folder: Path) -> None:
    kept = ["runs/a/bundles/best/DONE", "mlflow.db", "mlartifacts/x", "my.txt", ".venv/lib/__pycache__/x"]
    gone = [".cache/tokens/x", ".mypy_cache/x", "pipeline/__pycache__/x", "build/x"]
    for name in kept + gone:
        (bare_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (bare_folder / name).touch()
    assert call_make("clean", folder=bare_folder).returncode == 0
    left = {str(file.relative_to(bare_folder)) for file in bare_folder.rglob("*") if file.is_file()}
    assert left == {"Makefile", *kept}
