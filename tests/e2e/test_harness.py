"""make evaluate-lm: tasks of ours and of the user's, without a network; mistakes in a sentence."""

import json
import shutil
import socket
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import main

FIXTURES = Path(__file__).parents[1] / "fixtures" / "version_0_1"

OWN_TASK = """\
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: right
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with runs, from which no connection can be made."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection is made")

    shutil.copytree(FIXTURES, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


@pytest.mark.slow
def test_tasks_of_ours_and_one_yaml_of_the_user_are_measured_and_recorded_without_a_network(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "The sky is", "choices": ["blue", "loud"], "right": i % 2} for i in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "own").mkdir()
    (folder / "own" / "colours.yaml").write_text(OWN_TASK.format(file=folder / "rows.jsonl"))
    words = ["tasks=[storyworld,colours]", "harness.folder=own", "harness.limit=6", "tracking=off"]
    assert main(["evaluate-lm", *words, "name=measured", "bundle=old-pretrain"]) == 0
    printed = capfd.readouterr()
    assert "note:" not in printed.err
    found = json.loads((folder / "runs" / "measured" / "harness.json").read_text())["results"]
    assert found["colours"]["acc,none"] == 0.5
    assert found.keys() == {
        "colours", "storyworld_articles", "storyworld_endings", "storyworld_pronouns", "storyworld_text",
        "storyworld_written_endings",
    }  # fmt: skip
    evaluation = json.loads((folder / "runs" / "measured" / "evaluation.json").read_text())
    assert len(evaluation["rows"]) == 5 * 6
    assert all(f" {task} " in printed.err for task in found)


@pytest.mark.slow
def test_without_the_library_it_says_how_to_install_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["evaluate-lm", "bundle=old-pretrain", "tracking=off"]) == 2
    assert ".venv/bin/python -m pip install 'lm-eval" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bundle=old-classify"], "a causal language model: a Decoder with an LMHead"),
        (["harness.folder=nowhere"], "harness.folder=nowhere is not a folder"),
        (["harness.limit=0"], "limit is 0"),
    ],
)
def test_a_mistake_is_answered_before_there_is_a_run(
    folder: Path, capfd: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["evaluate-lm", "bundle=old-pretrain", "tracking=off", *words]) == 2
    assert said in capfd.readouterr().err
    assert {run.name for run in (folder / "runs").iterdir()} == {"old-pretrain", "old-classify"}
