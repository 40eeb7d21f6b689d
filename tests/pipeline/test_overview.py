"""The page over all runs: with none, with damaged ones, with many."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

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
