"""Every command of the pages names what there is, and composes."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.commands import ORCHESTRATORS
from pipeline.config.compose import compose
from pipeline.config.plain import Config
from pipeline.plan import request as plan
from pipeline.sweep.command import read_request
from tests.commands import ROOT, dry_run, pipeline_words
from tests.docs.documents import DOCUMENTS, PLACEHOLDER, TREE, commands, make_words, spans


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
    if stage in ORCHESTRATORS:
        request = plan.read_request(stage, overrides)
        plan.check(request)
        return request.own
    return compose("pretrain" if stage == "show-config" else stage, overrides)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_line_of_a_code_block_is_a_command_that_is_tested_here(document: str) -> None:
    tools = set(re.findall(r'^    "([\w-]+)', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert commands(document) or document == TREE
    for command in commands(document):
        if make_words(command) is None and not command.startswith("git clone "):
            assert Path(shlex.split(command)[0]).parent == Path(".venv/bin"), command
            assert Path(shlex.split(command)[0]).name in tools, command


@pytest.mark.slow
@pytest.mark.parametrize("command", make_commands())
def test_every_command_names_a_target_and_a_configuration_that_composes(command: str) -> None:
    if command == "make setup":  # has nothing to do where the environment is there
        return
    words = make_words(command) or []
    assert not words or dry_run(words)
    called = pipeline_words(words) if words else None
    if called and not PLACEHOLDER.search(command):
        assert composed(called[0], called[1:])
