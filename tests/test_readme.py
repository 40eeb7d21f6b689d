"""The README, its Chinese version, CONTRIBUTING and the pages in docs/ say nothing that is not so."""

import csv
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, TextIO

import pytest
import torch

from datamodules.corpus import Columns
from datamodules.storyworld import StoryWorld
from pipeline.__main__ import main
from pipeline.commands import OVER_STAGES
from pipeline.config.compose import compose, groups
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.errors import ConfigError
from pipeline.machine.options import TrainerOptions
from pipeline.plan.request import check_words
from pipeline.sweep.command import read_request
from pipeline.tasks.finetuning import FinetuneTask
from tests.commands import ROOT, dry_run, pipeline_words
from tests.waiting import wait_until

DOCUMENTS = (
    "README.md",
    "README.zh-CN.md",
    "CONTRIBUTING.md",
    "docs/reference.md",
    "docs/tree.md",
    "docs/finetuning.md",
    "docs/sweeps.md",
    "docs/export.md",
    "docs/serving.md",
)
READMES = DOCUMENTS[:2]
REFERENCE, TREE = "docs/reference.md", "docs/tree.md"
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}

#: Words that stand for what a reader puts there.
PLACEHOLDER = re.compile(r"NAME|\.\.\.|…")

#: Stages that end by themselves and need nothing but files.
RUNNABLE = (
    *("pretrain", "tokenizer", "finetune", "evaluate", "predict", "try", "generate", "show-data"),
    *("compare", "doctor"),
)

#: A run that is killed, and resumed.
LONG_ENOUGH_TO_KILL = ("trainer.max_steps=400", "trainer.checkpoint_every_steps=10")

#: What someone types at the terminal; as many lines as any task asks for.
TYPED = "Anna has the lantern.\nWho has the lantern?\n"

#: Labels that an example's rows have in turn.
LABELS = ("good", "bad")


def blocks(document: str, *languages: str) -> list[list[str]]:
    """The lines of each code block of these languages."""
    found = re.findall(r"^```(\S*)\n(.*?)^```$", TEXTS[document], re.MULTILINE | re.DOTALL)
    return [body.splitlines() for language, body in found if language in languages]


def commands(document: str) -> list[str]:
    """The commands of all code blocks, without comments, in order."""
    lines = [line for block in blocks(document, "", "sh", "bash") for line in block]
    return [bare for line in lines if (bare := re.sub(r"(^|\s+)#\s.*$", "", line).strip())]


def make_words(command: str) -> list[str] | None:
    """What a command gives to `make`, None if it is another program's."""
    words = [word for word in shlex.split(command) if not word.startswith("PRELUDE_DATA=")]
    return words[1:] if words[0] == "make" else None


def spans(document: str) -> list[str]:
    """What stands in backquotes outside of code blocks."""
    prose = re.sub(r"^```.*?^```$", "", TEXTS[document], flags=re.MULTILINE | re.DOTALL)
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]


def make_commands() -> list[str]:
    """Every `make` command of the documents, in blocks and in the text, once."""
    found = [
        command
        for document in DOCUMENTS
        for command in (*commands(document), *spans(document))
        if command.split(maxsplit=1)[0] == "make"
    ]
    return list(dict.fromkeys(found))


def composed(stage: str, overrides: Sequence[str]) -> Config:
    if stage == "sweep":
        return read_request(overrides).config
    if stage in OVER_STAGES:
        return check_words(stage, overrides).own
    return compose("pretrain" if stage == "show-config" else stage, overrides)


def table() -> dict[str, set[str]]:
    """Group -> the options that the reference's table gives it."""
    listed = {}
    for groups_cell, options_cell in re.findall(r"^\| (`.+?) \| (.+) \|$", TEXTS[REFERENCE], re.MULTILINE):
        options = re.sub(r"\(.*?\)", "", options_cell).split(";")
        for group, names in zip(re.findall(r"`(\w+)`", groups_cell), options, strict=True):
            listed[group] = set(re.findall(r"[a-z]\w*", names))
    return listed


def tree() -> dict[str, str]:
    """Path -> duty, of each line of the tree."""
    (lines,) = blocks(TREE, "text")
    folders: list[tuple[int, str]] = []
    duties = {}
    for line in filter(None, lines):
        match = re.fullmatch(r"( *)(\S+)(?: {2,}(\S.*))?", line)
        assert match, line
        indent, name, duty = len(match[1]), match[2], match[3]
        folders = [folder for folder in folders if folder[0] < indent]
        path = "".join(folder for _, folder in folders) + name
        duties[path] = duty or ""
        if name.endswith("/"):
            folders.append((indent, name))
    return duties


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_line_of_a_code_block_is_a_command_that_is_tested_here(document: str) -> None:
    tools = set(re.findall(r'^    "([\w-]+)', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert commands(document) or document == TREE
    for command in commands(document):
        if make_words(command) is None and not command.startswith("git clone "):
            assert Path(shlex.split(command)[0]).parent == Path(".venv/bin"), command
            assert Path(shlex.split(command)[0]).name in tools, command


@pytest.mark.parametrize("command", make_commands())
def test_every_command_names_a_target_and_a_configuration_that_composes(command: str) -> None:
    if command == "make setup":  # has nothing to do where the environment is there
        return
    words = make_words(command) or []
    assert not words or dry_run(words)
    called = pipeline_words(words) if words else None
    if called and not PLACEHOLDER.search(command):
        assert composed(called[0], called[1:])


def test_both_readmes_give_the_same_commands_in_the_same_order() -> None:
    assert commands("README.zh-CN.md") == commands("README.md")


def test_both_readmes_have_the_same_sections() -> None:
    levels = [re.findall(r"^(#+) ", TEXTS[document], re.MULTILINE) for document in READMES]
    assert levels[0] == levels[1]


@pytest.mark.parametrize("document", READMES)
def test_a_readme_fits_two_screens(document: str) -> None:
    assert len(TEXTS[document].splitlines()) <= 150


#: Of each README: the training row that tells its story, and the one that its translation is from.
STORIES = (("README.md", 903, 1505), ("README.zh-CN.md", 765, 3803))


@pytest.mark.parametrize(("document", "number", "translated"), STORIES)
def test_the_story_of_a_readme_and_what_each_task_makes_of_it_are_rows_of_the_story_world(
    document: str, number: int, translated: int
) -> None:
    row = {
        view: StoryWorld(view=view).row("train", number) for view in ("story", "classify", "qa", "summarize")
    }
    row["translate"] = StoryWorld(view="translate").row("train", translated)
    lines = re.findall(r"^> (.+)$", TEXTS[document], re.MULTILINE)
    assert " ".join(lines) == row["story"]["text"]
    shown = re.findall(r"^\| (\w+) \| (.+) \| (.+) \|$", TEXTS[document], re.MULTILINE)
    cells = {task: (read, answer) for task, read, answer in shown}
    assert cells["classify"][1] == row["classify"]["label"]
    assert cells["qa"][0].endswith(row["qa"]["question"])
    assert [cells["qa"][1]] == row["qa"]["answers"]["text"]
    assert cells["summarize"][1] == row["summarize"]["summary"]
    assert cells["tag"][0] in row["story"]["text"]
    assert re.sub(r"\[(\w+) (PERSON|PLACE|THING)\]", r"\1", cells["tag"][1]) == cells["tag"][0]
    assert cells["translate"] == (row["translate"]["source"], row["translate"]["target"])
    assert cells["translate"][document == "README.zh-CN.md"] in row["story"]["text"]


@pytest.mark.parametrize("document", READMES)
def test_the_python_of_a_readme_answers_rows_goes_on_from_a_text_and_gives_the_module(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "tests" / "fixtures" / "version_0_1", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    (lines,) = blocks(document, "python")
    made: dict[str, Any] = {}
    exec("\n".join(lines).replace("NAME", "old-classify").replace("PRETRAINED", "old-pretrain"), made)
    (answer,) = made["answers"]
    assert answer.text in made["bundle"].task.label_names
    assert answer.text == max(answer.details["probabilities"], key=answer.details["probabilities"].get)
    prompt = re.findall(r'generate\("(.*?)"', "\n".join(lines))[0]
    assert made["story"].startswith(prompt)
    assert made["story"] != prompt
    assert isinstance(made["network"], torch.nn.Module)


def test_both_readmes_link_to_the_same_pages() -> None:
    english, chinese = (set(links(document)) for document in READMES)
    assert english - {"README.zh-CN.md"} == chinese - {"README.md"}


def test_a_number_of_the_english_readme_stands_in_the_chinese_one() -> None:
    english, chinese = (set(re.findall(r"\d[\d.,]*\d", TEXTS[name])) for name in READMES)
    assert english - chinese == set()


def links(document: str) -> list[str]:
    """Targets of links and pictures, without anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", TEXTS[document])
    return [(plain or quoted).split("#")[0] for plain, quoted in targets]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_relative_link_points_to_a_file(document: str) -> None:
    relative = [link for link in links(document) if link and "://" not in link]
    assert [link for link in relative if not ((ROOT / document).parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_is_named_exists(document: str) -> None:
    rooms = ("configs/", "datamodules/", "modules/", "pipeline/", "tests/", "docs/", "scripts/")
    paths = [span for span in spans(document) if span.startswith(rooms)]
    assert [path for path in paths if not list(ROOT.glob(path.replace("NAME", "*")))] == []


def test_the_table_lists_the_groups_options_as_they_are() -> None:
    listed = table()
    options = groups()
    assert listed.keys() <= options.keys()
    assert {"task", "data", "size", "model", "position", "tokenizer", "optimizer"} <= listed.keys()
    assert "schedule" in listed
    for group, names in listed.items():
        if group == "trainer":
            assert names <= TrainerOptions.__dataclass_fields__.keys()
        else:
            assert names == set(options[group]), group


@pytest.mark.parametrize("document", DOCUMENTS)
def test_corpora_are_written_as_they_are_typed(document: str) -> None:
    corpora = groups()["data"]
    hyphenated = [name.replace("_", "-") for name in corpora if "_" in name]
    assert [name for name in hyphenated if re.search(rf"\b{name}\b", TEXTS[document], re.IGNORECASE)] == []
    typed = re.findall(r"\bDATA=(\w+)", TEXTS[document])
    assert set(typed) - {"NAME"} <= set(corpora)


def task_tables() -> dict[tuple[str, str], str]:
    """(Header of a column, task) -> what the tables of the page on fine-tuning have there."""
    cells: dict[tuple[str, str], str] = {}
    header: list[str] = []
    task = ""
    for line in TEXTS["docs/finetuning.md"].splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        header = row if row and not header else header if row else []
        task = row[0].strip("`") or task if row else ""
        for name, cell in zip(header[1:], row[1:], strict=False):
            for one in task.split(", "):
                cells[name, one] = f"{cells.get((name, one), '')} {cell}".strip()
    return cells


def code(cell: str) -> list[str]:
    """The words in backquotes of a cell."""
    return re.findall(r"`([\w.]+)`", cell)


def options_of(task: FinetuneTask) -> set[str]:
    """The fields that a user sets: of the others the docstring says that they are learned."""
    pages = "\n".join(kind.__doc__ or "" for kind in type(task).__mro__)
    learned = re.findall(r"^ +(\w+): learned:", pages, re.MULTILINE)
    return {item.name for item in fields(task)} - set(learned)  # type: ignore[arg-type]


@cache
def finetuning_tasks() -> dict[str, FinetuneTask]:
    """Each task that learns from labelled rows, told from the others by what it is."""
    tasks = {name: construct(compose("show-data", [f"task={name}"]).task) for name in groups()["task"]}
    return {name: task for name, task in tasks.items() if isinstance(task, FinetuneTask)}


@pytest.mark.parametrize("name", finetuning_tasks())
def test_the_page_on_fine_tuning_gives_each_task_as_it_is(name: str) -> None:
    task, cells = finetuning_tasks()[name], task_tables()
    assert tuple(code(cells["what the model reads", name])[: len(task.inputs)]) == task.inputs
    assert task.targets == () or code(cells["what it learns", name])[0] in task.targets
    assert set(task.optional) <= set(code(cells["what may be there too", name]))
    assert f"**`{task.metric}`**" in cells["metric", name]
    assert set(code(cells["option", name])) == options_of(task)
    for backbone in ("Decoder", "Encoder", "EncoderDecoder"):
        (answer,) = (cells[head, one] for head, one in cells if one == name and head.split()[0] == backbone)
        assert answer.startswith("yes") == (backbone in {kind.__name__ for kind in task.backbones})
    nothing = compose("finetune", [f"task={name}", "init_from=none"]).model.backbone._target_
    assert cells["with `INIT=none`", name] == nothing.rpartition(".")[2]


def test_the_page_on_fine_tuning_gives_every_default_as_it_is() -> None:
    cells = task_tables()
    for name, task in finetuning_tasks().items():
        defaults = [
            part.strip() for part in re.split(r"[ ,]+", cells["default", name]) if part[0].isdecimal()
        ]
        numbers = [
            value
            for option in code(cells["option", name])
            if isinstance(value := getattr(task, option), int | float) and not isinstance(value, bool)
        ]
        assert [float(default) for default in defaults] == numbers, name


def test_every_corpus_of_a_row_of_the_page_on_fine_tuning_is_there() -> None:
    cells = task_tables()
    corpora = groups()["data"]
    for kind in ("story world (the default)", "hub", "mirror only"):
        listed = {name: re.findall(r"\w+", cells[kind, name]) for name in finetuning_tasks()}
        assert any(listed.values()), kind
        assert [name for names in listed.values() for name in names if name not in corpora] == []


def test_the_refusal_that_the_reference_quotes_is_what_one_reads() -> None:
    quoted = [span for span in spans(REFERENCE) if "takes no such key" in span]
    for quotation in quoted:
        with pytest.raises(ConfigError) as caught:
            compose("pretrain", [f"{quotation.split(':')[0]}=1"])
        begin, _, end = quotation.partition(" ... ")
        assert str(caught.value).startswith(begin)
        assert str(caught.value).endswith(end)
    assert quoted


def test_the_tree_shows_every_module_and_nothing_that_is_not_there() -> None:
    shown = tree()
    assert [path for path in shown if not (ROOT / path).exists()] == []
    assert [path for path, duty in shown.items() if not duty] == []
    folders = tuple(path for path in shown if path.endswith("/") and not has_children(path, shown))
    files = [
        str(file.relative_to(ROOT))
        for room in ("datamodules", "modules", "pipeline", "configs", "docs", "scripts")
        for file in sorted((ROOT / room).rglob("*.*"))
        if file.is_file() and "__pycache__" not in file.parts and file.name != "__init__.py"
    ]
    assert [file for file in files if file not in shown and not file.startswith(folders)] == []


def has_children(folder: str, paths: Mapping[str, str]) -> bool:
    return any(path != folder and path.startswith(folder) for path in paths)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_part_is_left_to_be_written(document: str) -> None:
    assert re.findall(r"\b\w+_PLACEHOLDER\b|\bTODO\b|\bTBD\b", TEXTS[document]) == []


def needs_other_data(config: Config) -> bool:
    """Whether the corpus has to be fetched from the hub."""
    return str(config.data._target_).rpartition(".")[2] in ("Hub", "Mirror")


def write_example_files(config: Config, texts: Sequence[str]) -> None:
    """The user's files that an example names, if they are not there."""
    for name in filter(None, (config.data.train, config.data.validation)):
        rows = texts[: len(texts) // 10] if name == config.data.validation else texts[len(texts) // 10 :]
        if name.endswith(".txt"):
            Path(name).write_text("\n".join(rows))
        else:
            columns = {config.data.columns.text: rows, config.data.columns.get("label"): cycle(LABELS)}
            names = [column for column in columns if column is not None]
            write_rows(
                name, [dict(zip(names, row, strict=False)) for row in zip(*columns.values(), strict=False)]
            )


def write_input(config: Config) -> None:
    """The rows that `predict` shall answer, under the names that the example gives their columns."""
    overrides = [f"task={config.choices.task}", *FEW_LABELLED]
    task = finetuning_tasks()[config.choices.task]
    corpus = construct(compose("finetune", overrides).data).load(Columns(task.inputs))
    names = config.columns or {}
    rows = [{names.get(column, column): row[column] for column in task.inputs} for row in corpus.train]
    write_rows(config.input, rows)


def write_rows(name: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as the kind of file that its name says."""
    if name.endswith(".csv"):
        with open(name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return
    assert ".jsonl" in name, f"this test cannot write {name}"
    with gzip.open(name, "wt") if name.endswith(".gz") else open(name, "w") as lines:
        lines.write("".join(json.dumps(row) + "\n" for row in rows))


#: Rows of the story world that are enough to see a stage work.
FEW = ("data.n_train_rows=2000", "data.n_validation_rows=50")
FEW_LABELLED = ("data.n_train_rows=300", "data.n_validation_rows=8", "data.n_test_rows=8")


def quick(stage: str, config: Config) -> Iterator[str]:
    """Overrides that make a stage short, of those that it takes."""
    takes = config.stage.uses
    if "debug" in takes:
        yield "debug=quick"
    if "tracking" in takes:
        yield "tracking=off"
    if "trainer" in takes:
        yield "trainer.max_steps=20"
    if stage == "finetune":
        yield from ("trainer.score_rows=4", "trainer.val_every_steps=20")
    if "data" in takes and str(config.data._target_).endswith("StoryWorld"):
        yield from FEW_LABELLED if "view" in config.data else FEW


def pipe(text: str) -> TextIO:
    """The reading end of a pipe that holds `text` and nothing after it."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return os.fdopen(reading)


def leave_a_killed_run(words: Sequence[str]) -> None:
    """Start a stage in another process and kill it between two checkpoints."""
    unfinished = [word for word in words if not word.startswith("resume=")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = set(Path("runs").glob("*"))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *unfinished], env=environ, stderr=subprocess.DEVNULL
    )
    saved = lambda: [  # noqa: E731
        run for run in set(Path("runs").glob("*")) - before if any(run.glob("checkpoints/last.ckpt"))
    ]
    wait_until(saved, "the run has saved a checkpoint", process=process)
    process.kill()
    assert process.wait() == -9


@pytest.mark.slow
def test_the_commands_of_the_readme_and_the_reference_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DEBUG", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    texts = [row["text"] for row in StoryWorld(2000).load().train]
    done: Counter[str] = Counter()
    known = commands(REFERENCE)
    for command in (*(command for command in commands("README.md") if command not in known), *known):
        words = make_words(command)
        called = pipeline_words(words) if words else None
        if not called or called[0] not in RUNNABLE or PLACEHOLDER.search(command):
            continue
        stage, *overrides = called
        config = compose(stage, overrides)
        if "data" in config:
            if needs_other_data(config):
                continue
            if str(config.data._target_).endswith("Files"):
                write_example_files(config, texts)
        if config.get("input"):
            write_input(config)
        call = [stage, *overrides, *quick(stage, config)]
        if config.get("resume"):
            call += LONG_ENOUGH_TO_KILL
            leave_a_killed_run(call)
        with pipe(TYPED) as typed:
            monkeypatch.setattr("sys.stdin", typed)
            code = main(call)
        printed = capfd.readouterr()
        assert code == 0, f"{command}\n{printed.err}"
        assert not config.get("resume") or "(resumed)" in printed.err
        assert stage != "predict" or len(list(tmp_path.glob("*.predictions.jsonl"))) == done["predict"] + 1
        assert stage != "try" or printed.out.strip(), command
        done[stage] += 1
    assert done["pretrain"] >= 5
    assert done["finetune"] >= len(finetuning_tasks())
    assert done.keys() == set(RUNNABLE) - {"tokenizer"}
