"""The page over all runs: with none, with damaged ones, with many."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.overview.page import render_report, trees
from pipeline.overview.store import read_store
from tests.pipeline.compare.folders import make_run

AT = datetime(2026, 1, 1, tzinfo=UTC)


def page_of(folder: Path) -> str:
    return render_report(read_store(folder), runs_dir=str(folder), at=AT)


def test_without_a_run_the_page_says_what_to_do(tmp_path: Path) -> None:
    assert "make pretrain" in page_of(tmp_path / "runs")


def test_the_best_of_each_task_is_first_and_a_page_needs_nothing_else(tmp_path: Path) -> None:
    make_run(tmp_path, "worse", scores=(1.0, 0.0, 0.0))
    make_run(tmp_path, "better", scores=(1.0, 1.0, 0.0))
    make_run(tmp_path, "<b>evil", scores=(0.0, 0.0, 0.0))
    page = page_of(tmp_path)
    assert page.index("better") < page.index("worse")
    assert "<b>evil" not in page
    assert "src=" not in page
    assert "<script" not in page


@pytest.mark.parametrize("content", ["", "[]", "{", '{"name": "x"}', "null"])
def test_damaged_runs_are_listed_and_the_others_shown(tmp_path: Path, content: str) -> None:
    make_run(tmp_path, "whole")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text(content)
    store = read_store(tmp_path)
    assert [run.name for run in store.runs] == ["whole"]
    assert list(store.damaged) == ["broken"]
    assert "Cannot be read" in page_of(tmp_path)


@pytest.mark.slow
def test_of_many_runs_all_are_on_the_page_the_first_ones_open(tmp_path: Path) -> None:
    for i in range(300):
        make_run(tmp_path, f"run-{i:03}", steps=2)
    page = page_of(tmp_path)
    assert all(f"run-{i:03}" in page.replace("<wbr>", "") for i in range(300))
    assert "300 runs" in page
    assert page.count("288 more</summary>") == 1
    assert page.count("of the best 6") == 1
    assert len(page) < 1_000_000


def test_the_cost_of_a_run_that_was_not_tracked_is_that_of_its_bundle(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "untracked")
    (folder / "tracking/points.jsonl").unlink()
    file = folder / "bundles/best/provenance.json"
    for cost, seconds in (({"seconds": 90.0, "tokens": 5000}, 90.0), ({"seconds": "x"}, None), ([], None)):
        file.write_text(json.dumps({"run": "untracked", "cost": cost}))
        (run,) = read_store(tmp_path).runs
        assert run.cost.seconds == seconds
    assert "1 run." in page_of(tmp_path), "what is not known is no zero"
    file.write_text(json.dumps({"run": "untracked", "cost": {"seconds": 90.0, "tokens": 5000}}))
    assert "1 run, 90.0 s in total, 5,000 tokens read" in page_of(tmp_path)


def test_a_page_that_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("mine")
    for output in ("a_file/report.html", "."):
        assert main(["report", f"output={output}"]) == 2
        assert "error: cannot write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]
    assert (tmp_path / "a_file").read_text() == "mine"


def test_runs_stand_below_what_they_were_started_from(tmp_path: Path) -> None:
    class Fact:
        def __init__(self, name: str, parent: str | None) -> None:
            self.name, self.title = name, f"title of {name}"
            self.provenance = {} if parent is None else {"parent run": parent}

    runs = [Fact("c", "b"), Fact("b", "a"), Fact("d", "gone"), Fact("a", None), Fact("alone", None)]
    found = trees(runs)  # type: ignore[arg-type]
    assert {node["name"]: node["title"] for node in found} == {"a": "title of a", "gone": "deleted"}
    (a,) = (node for node in found if node["name"] == "a")
    assert a["children"][0]["children"][0]["name"] == "c"
