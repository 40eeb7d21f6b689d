"""A run made again from what is recorded comes out the same, and what it started from is recorded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.runs import bundle
from tests.e2e.conftest import QUICK, Outcome

FILES = ("data=files", "data.train=poem.txt", "tokenizer=bytes")


@pytest.mark.slow
def test_a_continued_pretraining_records_its_parent_and_is_reproduced_to_the_last_digit(
    run: Callable[..., Outcome], text_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("pretrain", *FILES, *QUICK, "name=first").code == 0
    assert run("pretrain", *FILES[:2], *QUICK, "name=second", "init_from=first").code == 0
    provenance = json.loads(Path("runs/second/bundles/best/provenance.json").read_text())
    assert provenance["parent"]["run"] == "first"
    assert provenance["parent"]["digest"] == bundle.digest(Path("runs/first/bundles/best"))
    assert provenance["code"]["torch"]
    outcome = run("reproduce", "run=second", "tracking=off")
    assert outcome.code == 0
    assert outcome.result["metrics"]["different"] == 0
    assert outcome.result["metrics"]["compared"] > 3
    assert "to the last digit; the weights too, bit for bit" in " ".join(outcome.err.split())
    text_file.write_text(text_file.read_text().replace("poem", "song"))
    changed = run("reproduce", "run=second", "tracking=off")
    assert changed.result["metrics"]["different"] > 0
    assert "corpus" in changed.err.split("Possible causes")[1]
    assert main(["lineage", "bundle=second", "tracking=off"]) == 0
    assert "≠ source" in capfd.readouterr().out


@pytest.mark.slow
def test_a_run_whose_bundle_is_gone_is_made_again_and_compared_by_what_it_still_has(
    run: Callable[..., Outcome], text_file: Path
) -> None:
    assert run("pretrain", *FILES, *QUICK, "name=lost").code == 0
    shutil.rmtree("runs/lost/bundles/best")
    gone = "its run is finished, but the bundle was deleted or is incomplete"
    assert gone in run("evaluate", "data=files", "data.train=poem.txt", "bundle=lost").error
    measured = run("reproduce", "run=lost", "tracking=off")
    assert measured.result["metrics"]["different"] == 0
    assert measured.result["metrics"]["compared"] > 3
    assert "to the last digit" in " ".join(measured.err.split())
    Path("runs/lost/evaluation.json").unlink()
    alone = run("reproduce", "run=lost", "tracking=off")
    assert alone.result["metrics"] == {"compared": 0, "different": 0}
    assert "so there is nothing to compare" in " ".join(alone.err.split())
    assert "None" not in alone.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no run to reproduce"),
        (["run=nobody"], "no run 'nobody'"),
    ],
)
def test_reproduce_answers_a_run_that_is_not_there(
    run: Callable[..., Outcome], words: list[str], says: str
) -> None:
    outcome = run("reproduce", *words)
    assert (outcome.code, says in outcome.error) == (2, True)
