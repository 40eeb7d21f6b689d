"""A working folder of its own, and the pipeline called in it as a user calls it."""

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import main

#: Seconds instead of minutes, and no tracking.
QUICK = ("debug=quick", "tracking=off")


#: Labels of the smallest training set that a classifier learns something from.
MOODS = ("good", "bad") * 40


def labelled(path: Path, labels: Sequence[object] = MOODS) -> Path:
    """A file of rows with a sentence and its mood."""
    rows = [{"sentence": f"text number {i} is {label}", "mood": label} for i, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def files(train: Path | str, *more: str) -> tuple[str, ...]:
    """The words that name such files."""
    columns = ("data.columns.text=sentence", "data.columns.label=mood")
    return "data=files", f"data.train={train}", *columns, *more


@dataclass
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object that is the last line of standard output."""
        return dict(json.loads(self.out.splitlines()[-1]))

    @property
    def error(self) -> str:
        """The one error, and its hint on the line below: the last that is said."""
        lines = self.err.splitlines()
        (at,) = (i for i, line in enumerate(lines) if line.startswith("error: "))
        assert all(line.startswith("hint: ") for line in lines[at + 1 :]), self.err
        assert len(lines) <= at + 2, self.err
        return "\n".join(lines[at:])


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Calls `python -m pipeline` with these words, in a folder that is empty at first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEBUG", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*words: str) -> Outcome:
        capfd.readouterr()
        code = main([*words, "--json"])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A text large enough for a tiny run."""
    file = tmp_path / "poem.txt"
    file.write_text(
        "".join(f"Line {i} of a long poem about nothing much, {i * i} times.\n" for i in range(400))
    )
    return file


@pytest.fixture(scope="session")
def small_bundle_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small causal model, `base`, has been pretrained on labelled sentences."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "my.txt").write_text("".join(f"text number {i} is good or bad\n" for i in range(400)))
    words = (*QUICK, "tokenizer=bytes", "packing=concat", "data=files", "data.train=my.txt")
    with contextlib.chdir(folder):
        assert main(["pretrain", *words, "name=base", "trainer.max_steps=2"]) == 0
    return folder


@pytest.fixture
def small_bundle(small_bundle_once: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to work in; `rows.jsonl` in it has labelled sentences."""
    shutil.copytree(small_bundle_once, tmp_path, dirs_exist_ok=True)
    labelled(tmp_path / "rows.jsonl")
    return tmp_path
