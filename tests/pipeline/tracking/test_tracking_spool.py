import os
import resource
from pathlib import Path

import pytest

from pipeline.tracking.spool import Progress, Spool, read_records


def test_what_is_appended_is_read_back_in_order_from_any_offset(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "points.jsonl")
    for n in range(5):
        spool.append({"kind": "metrics", "n": n, "text": "故事 🐉"})
    found = list(read_records(tmp_path / "points.jsonl", 0))
    assert [record["n"] for record, _ in found if record] == [0, 1, 2, 3, 4]
    later = list(read_records(tmp_path / "points.jsonl", found[2][1]))
    assert [record["n"] for record, _ in later if record] == [3, 4]


def test_an_unfinished_last_line_waits_for_its_end(tmp_path: Path) -> None:
    file = tmp_path / "points.jsonl"
    file.write_bytes(b'{"kind":"a"}\n{"kind":"b')
    assert [record for record, _ in read_records(file, 0)] == [{"kind": "a"}]


def test_a_line_that_a_killed_process_left_unfinished_does_not_swallow_the_next(tmp_path: Path) -> None:
    file = tmp_path / "points.jsonl"
    file.write_bytes(b'{"kind":"a"}\n{"kind":"b')
    Spool(file).append({"kind": "c"})
    assert [record for record, _ in read_records(file, 0)] == [{"kind": "a"}, None, {"kind": "c"}]


def test_a_full_disk_delays_lines_and_raises_nothing(tmp_path: Path) -> None:
    file = tmp_path / "points.jsonl"
    spool = Spool(file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        for n in range(20):
            spool.append({"kind": "metrics", "n": n})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.stat().st_size == 100
    spool.append({"kind": "metrics", "n": 20})
    assert [record["n"] for record, _ in read_records(file, 0) if record] == list(range(21))


def test_a_call_after_the_end_writes_nowhere(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "points.jsonl")
    spool.close()
    other = (tmp_path / "other").open("w+")  # takes the number of the closed file
    spool.append({"kind": "late"})
    other.seek(0)
    assert other.read() == ""
    other.close()


def test_a_record_is_one_write_that_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("write", "fsync", "fdatasync", "open", "pread"):
        function = getattr(os, name)
        counted = lambda *given, name=name, function=function: (calls.append(name), function(*given))[1]  # noqa: E731
        monkeypatch.setattr(os, name, counted)
    spool = Spool(tmp_path / "points.jsonl")
    calls.clear()
    for step in range(500):
        spool.append({"kind": "metrics", "time_ms": 1, "step": step, "values": {"train/loss": 1.0}})
    assert calls == ["write"] * 500


def test_progress_survives_and_is_fresh_where_there_is_none(tmp_path: Path) -> None:
    assert Progress.load(tmp_path) == Progress()
    progress = Progress(run_id="r", offsets={"points": 7}, models={"/b": "m"})
    progress.save(tmp_path)
    assert Progress.load(tmp_path) == progress
