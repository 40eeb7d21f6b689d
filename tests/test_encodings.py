"""No file depends on the locale: whatever opens a text says its encoding."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("benchmarks", "datamodules", "modules", "pipeline", "scripts")


def unspecified(tree: ast.AST) -> Iterator[int]:
    """Lines of the calls that read or write a text in the encoding of the locale."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and not {"encoding", "errors"} & {word.arg for word in node.keywords}:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("read_text", "write_text") or (name == "open" and is_of_text(node)):
                yield node.lineno
            if any(word.arg in ("text", "universal_newlines") for word in node.keywords) and is_process(node):
                yield node.lineno


def is_of_text(call: ast.Call) -> bool:
    """Whether `open(file, mode)`, `path.open(mode)` opens a text; `os.open` opens none."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and owner.id in ("os", "webbrowser", "Image"):
        return False
    modes = [*call.args[0 if owner else 1 :], *(word.value for word in call.keywords if word.arg == "mode")]
    return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)


def is_process(call: ast.Call) -> bool:
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id in ("subprocess", "psutil")


@pytest.mark.parametrize("room", ROOMS)
def test_every_text_is_read_and_written_in_an_encoding_that_is_said(room: str) -> None:
    files = (ROOT / room).rglob("*.py")
    lines = {
        f"{file.relative_to(ROOT)}:{line}"
        for file in files
        for line in unspecified(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert not lines


def test_what_depends_on_the_locale_is_found() -> None:
    code = (
        "open('a')\nopen('a', 'rb')\nPath('a').open('w')\nfile.read_text()\nfile.write_text('x')\n"
        "os.open('a', 1)\nfile.read_text(encoding='utf-8')\nsubprocess.run([], text=True)\n"
    )
    assert list(unspecified(ast.parse(code))) == [1, 3, 4, 5, 8]
