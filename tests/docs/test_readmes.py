"""Both READMEs say the same, in two screens, and what they show is so."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.storyworld import StoryWorld
from tests.commands import ROOT
from tests.docs.documents import READMES, TEXTS, blocks, commands, links


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
