"""Links, paths, names and tables of the pages are those that there are."""

import re
from collections.abc import Mapping

import pytest

from pipeline.config.compose import compose
from pipeline.config.groups import groups
from pipeline.errors import ConfigError
from pipeline.machine.options import TrainerOptions
from tests.commands import ROOT
from tests.docs.documents import DOCUMENTS, REFERENCE, TEXTS, TREE, blocks, links, spans


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
