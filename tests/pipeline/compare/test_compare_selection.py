"""Which runs a word means."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.compare.select import select_runs
from pipeline.errors import RunError
from tests.pipeline.compare.folders import make_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    make_run(folder, "old", scores=(1, 1, 1), created="2026-01-01T00:00:00+00:00", run_id="abcd1111")
    make_run(folder, "mid", scores=(1, 0, 1), created="2026-01-02T00:00:00+00:00", run_id="abcd2222")
    make_run(folder, "new", scores=(0, 0, 1), created="2026-01-03T00:00:00+00:00", run_id="ffff3333")
    base = {"stage": "pretrain", "task": "causal_lm", "data": "storyworld", "scores": None}
    make_run(folder, "base", **base, created="2025-01-01T00:00:00+00:00", metrics={"val/loss": 3.0})  # type: ignore[arg-type]
    make_run(folder, "base-2", **base, created="2025-01-02T00:00:00+00:00", metrics={"val/loss": 2.0})  # type: ignore[arg-type]
    return folder


def names(specs: list[str], runs: Path) -> list[str]:
    return [run.name for run in select_runs(specs, runs)]


def refusal(specs: list[str], runs: Path) -> str:
    with pytest.raises(RunError) as caught:
        select_runs(specs, runs)
    return str(caught.value)


def test_names_folders_bundles_and_ids_find_their_runs(runs: Path) -> None:
    assert names(["old", str(runs / "mid"), "ffff"], runs) == ["old", "mid", "new"]
    assert names([f"{runs}/old/", str(runs / "mid" / "bundles" / "best")], runs) == ["old", "mid"]
    assert names(["abcd1111", "mid"], runs) == ["old", "mid"]


def test_last_takes_the_newest_of_the_newest_ones_task(runs: Path) -> None:
    assert names(["last:2"], runs) == ["new", "mid"]
    assert names(["last:2:pretrain"], runs) == ["base-2", "base"]
    assert names(["last:2:causal_lm"], runs) == ["base-2", "base"]
    assert names(["last:3:classify:reviews"], runs) == ["new", "mid", "old"]


def test_last_takes_runs_of_one_task_where_there_are_enough_and_says_what_it_passed_over(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(runs, "alone", task="qa", created="2026-01-04T00:00:00+00:00")
    assert names(["last:2"], runs) == ["new", "mid"]
    assert "skipped alone (qa), to compare runs of one task" in capsys.readouterr().err


def test_last_takes_the_newest_runs_of_several_tasks_where_no_task_has_enough(runs: Path) -> None:
    make_run(runs, "alone", task="qa", created="2026-01-04T00:00:00+00:00")
    assert names(["last:4"], runs) == ["alone", "new", "mid", "old"]


def test_best_goes_by_the_tasks_own_metric_and_pretraining_by_its_loss(runs: Path) -> None:
    assert names(["best:classify", "new"], runs) == ["old", "new"]
    assert names(["best:causal_lm", "base"], runs) == ["base-2", "base"]


def test_where_some_run_had_no_test_rows_best_goes_by_validation_rows(tmp_path: Path) -> None:
    for name, test, val in (("a", 0.9, 0.6), ("b", None, 0.8), ("c", 0.7, 0.7)):
        tested = {} if test is None else {"test/accuracy": test}
        make_run(tmp_path, name, metrics={"val/accuracy": val, **tested})
    assert names(["best:classify", "a"], tmp_path) == ["b", "a"]


def test_best_of_runs_that_cannot_be_ranked_together_asks_which(runs: Path) -> None:
    make_run(runs, "news", data="news")
    assert "different data: news, reviews" in refusal(["best:classify", "old"], runs)
    assert names(["best:classify:reviews", "new"], runs) == ["old", "new"]


def test_an_unknown_name_is_answered_with_the_nearest_ones(runs: Path) -> None:
    assert refusal(["bsae-2", "old"], runs).endswith("did you mean base-2 or base?")
    assert "the newest runs are new, mid, old" in refusal(["zzzzzzzz", "old"], runs)


def test_an_ambiguous_id_is_answered_with_its_candidates(runs: Path) -> None:
    assert "old (abcd1111)" in refusal(["abcd", "new"], runs)
    assert "mid (abcd2222)" in refusal(["abcd", "new"], runs)


@pytest.mark.parametrize("spec", ["last:x", "last:0", "last:", "last:99", "last:2:qa", "best:qa", "best:"])
def test_impossible_words_are_refused_in_one_line(runs: Path, spec: str) -> None:
    assert refusal([spec], runs).count("\n") == 1


def test_one_run_or_the_same_run_twice_is_nothing_to_compare(runs: Path) -> None:
    assert refusal(["old", str(runs / "old"), "abcd1111"], runs).startswith("there is 1 run to compare (old)")


def test_no_runs_at_all_say_what_to_do_first(tmp_path: Path) -> None:
    assert "run `make pretrain` twice first" in refusal(["last:2"], tmp_path / "runs")


def test_names_with_slashes_and_unicode_are_found(runs: Path) -> None:
    make_run(runs, "evaluate-百合-on-org-news")
    make_run(runs, "café")
    assert names(["evaluate-百合-on-org/news", "cafe\u0301"], runs) == ["evaluate-百合-on-org-news", "café"]


@pytest.mark.parametrize("spec", ["best:classify", "last:3", "run-7", "00000009"])
def test_to_find_a_run_the_files_of_each_run_are_read_once(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(40):
        made = f"2026-02-{i % 28 + 1:02}T{i % 24:02}:00:00+00:00"
        make_run(tmp_path, f"run-{i}", scores=(1, i % 2), created=made, run_id=f"{i:08x}")
    opened: Counter[Path] = Counter()
    open_file = Path.open

    def counting(path: Path, *given: Any, **named: Any) -> Any:
        opened[path] += 1
        return open_file(path, *given, **named)

    monkeypatch.setattr(Path, "open", counting)
    select_runs([spec, "run-3"], tmp_path)
    assert {path.parent for path in opened} >= {tmp_path / f"run-{i}" for i in range(40)}
    assert [path for path, n in opened.items() if n > 2] == []
