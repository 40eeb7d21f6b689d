"""The README, its Chinese version and CONTRIBUTING say nothing that is not so."""

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from datamodules.storyworld import StoryWorld
from pipeline.__main__ import main
from pipeline.config import compose, groups
from pipeline.errors import ConfigError
from pipeline.trainer import TrainerOptions
from tests.commands import ROOT, dry_run, pipeline_words

DOCUMENTS = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")
READMES = DOCUMENTS[:2]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}

#: Words that stand for what a reader puts there.
PLACEHOLDER = re.compile(r"NAME|\.\.\.|…")

#: Stages that end by themselves and need nothing but files.
RUNNABLE = ("pretrain", "tokenizer", "evaluate", "generate", "show-data")

#: A run that is killed, and resumed.
LONG_ENOUGH_TO_KILL = ("trainer.max_steps=400", "trainer.checkpoint_every_steps=10")


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


def composed(stage: str, overrides: Sequence[str]) -> DictConfig:
    return compose("pretrain" if stage == "show-config" else stage, overrides)


def table(document: str) -> dict[str, set[str]]:
    """Group -> the options that the document's table gives it."""
    listed = {}
    for groups_cell, options_cell in re.findall(r"^\| (`.+?) \| (.+) \|$", TEXTS[document], re.MULTILINE):
        options = re.split("[;；]", re.sub(r"\(.*?\)|（.*?）", "", options_cell))
        for group, names in zip(re.findall(r"`(\w+)`", groups_cell), options, strict=True):
            listed[group] = set(re.findall(r"[a-z]\w*", names))
    return listed


def tree(document: str) -> dict[str, str]:
    """Path -> duty, of each line of the document's tree."""
    (lines,) = blocks(document, "text")
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
    assert commands(document)
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


def test_both_readmes_show_the_same_tree() -> None:
    assert list(tree("README.zh-CN.md")) == list(tree("README.md"))


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
    assert [link for link in relative if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_is_named_exists(document: str) -> None:
    rooms = ("configs/", "datamodules/", "modules/", "pipeline/", "tests/", "docs/", "scripts/")
    paths = [span for span in spans(document) if span.startswith(rooms)]
    assert [path for path in paths if not list(ROOT.glob(path.replace("NAME", "*")))] == []


@pytest.mark.parametrize("document", READMES)
def test_the_table_lists_the_groups_options_as_they_are(document: str) -> None:
    listed = table(document)
    options = groups()
    assert listed.keys() <= options.keys()
    assert {"task", "size", "model", "position", "tokenizer", "optimizer", "schedule"} <= listed.keys()
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


@pytest.mark.parametrize("document", READMES)
def test_the_refusal_that_the_readme_quotes_is_what_one_reads(document: str) -> None:
    quoted = [span for span in spans(document) if "takes no such key" in span]
    for quotation in quoted:
        with pytest.raises(ConfigError) as caught:
            compose("pretrain", [f"{quotation.split(':')[0]}=1"])
        begin, _, end = quotation.partition(" ... ")
        assert str(caught.value).startswith(begin)
        assert str(caught.value).endswith(end)
    assert quoted


@pytest.mark.parametrize("document", READMES)
def test_the_tree_shows_every_module_and_nothing_that_is_not_there(document: str) -> None:
    shown = tree(document)
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


def needs_other_data(config: DictConfig) -> bool:
    """Whether the corpus has to be fetched from the hub."""
    return str(config.data._target_).rpartition(".")[2] in ("Hub", "Mirror")


def write_example_files(config: DictConfig, texts: Sequence[str]) -> None:
    """The user's files that an example names, if they are not there."""
    for name in filter(None, (config.data.train, config.data.validation)):
        rows = texts[: len(texts) // 10] if name == config.data.validation else texts[len(texts) // 10 :]
        if name.endswith(".txt"):
            body = "\n".join(rows)
        else:
            assert ".jsonl" in name, f"this test cannot write {name}"
            body = "".join(json.dumps({config.data.columns.text: row}) + "\n" for row in rows)
        with gzip.open(name, "wt") if name.endswith(".gz") else open(name, "w") as file:
            file.write(body)


def quick(stage: str, config: DictConfig) -> Iterator[str]:
    """Overrides that make a stage short, of those that it takes."""
    takes = OmegaConf.load(ROOT / "configs" / "stage" / f"{stage}.yaml").uses
    if "debug" in takes:
        yield "debug=quick"
    if "tracking" in takes:
        yield "tracking=off"
    if "trainer" in takes:
        yield "trainer.max_steps=20"
    if "data" in takes and str(config.data._target_).endswith("StoryWorld"):
        yield from ("data.n_train_rows=2000", "data.n_validation_rows=50")


def leave_a_killed_run(words: Sequence[str]) -> None:
    """Start a stage in another process and kill it between two checkpoints."""
    unfinished = [word for word in words if not word.startswith("resume=")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = set(Path("runs").glob("*"))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *unfinished], env=environ, stderr=subprocess.DEVNULL
    )
    while not [run for run in set(Path("runs").glob("*")) - before if any(run.glob("checkpoints/last.ckpt"))]:
        try:
            assert process.wait(timeout=0.05) is None, "it ended before it could be killed"
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    assert process.wait() == -9


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_readmes_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DEBUG", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    texts = [row["text"] for row in StoryWorld(2000).load().train]
    trained = 0
    for command in commands("README.md"):
        words = make_words(command)
        called = pipeline_words(words) if words else None
        if not called or called[0] not in RUNNABLE:
            continue
        stage, *overrides = called
        config = compose(stage, overrides)
        if "data" in config:
            if needs_other_data(config):
                continue
            if str(config.data._target_).endswith("Files"):
                write_example_files(config, texts)
        call = [stage, *overrides, *quick(stage, config)]
        if config.get("resume"):
            call += LONG_ENOUGH_TO_KILL
            leave_a_killed_run(call)
        code = main(call)
        printed = capfd.readouterr()
        assert code == 0, f"{command}\n{printed.err}"
        assert not config.get("resume") or "(resumed)" in printed.err
        trained += stage == "pretrain"
    assert trained >= 5
