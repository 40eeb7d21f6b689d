"""The README, its Chinese version, CONTRIBUTING and the pages in docs/, taken apart."""

import re
import shlex
from functools import cache

from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.groups import groups
from pipeline.tasks.finetuning import FinetuneTask
from tests.commands import ROOT

DOCUMENTS = (
    "README.md",
    "README.zh-CN.md",
    "CONTRIBUTING.md",
    "docs/reference.md",
    "docs/tree.md",
    "docs/finetuning.md",
    "docs/sweeps.md",
    "docs/export.md",
    "docs/import.md",
    "docs/serving.md",
)

READMES = DOCUMENTS[:2]

REFERENCE, TREE = "docs/reference.md", "docs/tree.md"

TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}

#: Words that stand for what a reader puts there.
PLACEHOLDER = re.compile(r"NAME|\.\.\.|…")


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


def links(document: str) -> list[str]:
    """Targets of links and pictures, without anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", TEXTS[document])
    return [(plain or quoted).split("#")[0] for plain, quoted in targets]


@cache
def finetuning_tasks() -> dict[str, FinetuneTask]:
    """Each task that learns from labelled rows, told from the others by what it is."""
    tasks = {name: construct(compose("show-data", [f"task={name}"]).task) for name in groups()["task"]}
    return {name: task for name, task in tasks.items() if isinstance(task, FinetuneTask)}
