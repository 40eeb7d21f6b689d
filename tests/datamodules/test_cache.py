import errno
import hashlib
import io
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datamodules.cache import DATA_FILE, MANIFEST_FILE, RowWriter, TokenCache, TokenRows, cache_key
from datamodules.errors import CacheError, DataError

ROOT = Path(__file__).parents[2]
Build = Callable[[RowWriter], dict[str, Any]]


def some_rows(n_rows: int, row_tokens: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (n_rows, row_tokens)
    return rng.integers(0, 500, shape, np.int32), rng.integers(0, 4, shape).astype(np.uint16)


def write_in_chunks(ids: np.ndarray, segments: np.ndarray, chunk: int = 7) -> Build:
    def build(writer: RowWriter) -> dict[str, Any]:
        for start in range(0, len(ids), chunk):
            writer.write(ids[start : start + chunk], segments[start : start + chunk])
        return {"documents": 3}

    return build


def refuse(writer: RowWriter) -> dict[str, Any]:
    raise AssertionError("built again")


def test_the_key_is_the_same_for_the_same_parts_in_any_order_and_differs_otherwise() -> None:
    assert cache_key(a=1, b={"x": [1, 2], "y": None}) == cache_key(b={"y": None, "x": [1, 2]}, a=1)
    assert len({cache_key(), cache_key(a=1), cache_key(a="1"), cache_key(a=1.5), cache_key(b=1)}) == 5
    # Pinned: a key that changes with the program would make every cache useless.
    assert cache_key(a=1)[:16] == hashlib.sha256(b'{"a":1}').hexdigest()[:16]


def test_a_part_that_is_no_plain_value_is_refused() -> None:
    with pytest.raises(TypeError):
        cache_key(folder=Path())
    with pytest.raises(ValueError, match="JSON"):
        cache_key(rate=float("nan"))


def test_rows_come_back_as_written_in_any_order_over_many_record_batches(tmp_path: Path) -> None:
    ids, segments = some_rows(50)
    rows = TokenCache(tmp_path).get_or_build("k", {}, write_in_chunks(ids, segments), vocab_size=500)
    assert (len(rows), rows.row_tokens, len(list(rows.chunks()))) == (50, 6, 8)
    wanted = np.array([49, 0, 13, 13, 7, 6])
    taken_ids, taken_segments = rows.take(wanted)
    assert np.array_equal(taken_ids, ids[wanted])
    assert np.array_equal(taken_segments, segments[wanted])
    assert [len(part) for part in rows.take([])] == [0, 0]
    for outside in ([-1], [50]):
        with pytest.raises(IndexError):
            rows.take(outside)


def test_a_disk_that_takes_less_than_it_is_given_is_given_the_rest(tmp_path: Path) -> None:
    class Reluctant(io.FileIO):
        def write(self, data: Any, /) -> int:
            return super().write(memoryview(data)[:1000]) or 0

    ids, segments = some_rows(2000)
    with Reluctant(tmp_path / "data", "w") as file:
        writer = RowWriter(file, vocab_size=500)  # type: ignore[arg-type]
        writer.write(ids, segments)
        writer.finish()
    data = (tmp_path / "data").read_bytes()
    assert hashlib.sha256(data).hexdigest() == writer.sink.digest.hexdigest()
    assert pa.ipc.open_file(data).read_all().num_rows == 2000


def test_the_second_time_nothing_is_built(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    ids, segments = some_rows(5)
    cache.get_or_build("k", {"a": 1}, write_in_chunks(ids, segments), vocab_size=500)
    again = cache.get_or_build("k", {"a": 1}, refuse, vocab_size=500)
    assert np.array_equal(again.take(range(5))[0], ids)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_535, "uint16"), (65_536, "uint32")])
def test_ids_take_two_bytes_where_the_vocabulary_allows(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    rows = TokenCache(tmp_path).get_or_build("k", {}, write_in_chunks(*some_rows(3)), vocab_size=vocab_size)
    assert rows.take([0])[0].dtype.name == rows.manifest["dtype"] == dtype
    assert rows.take([0])[1].dtype == np.uint16


def maps_of(folder: Path) -> list[tuple[int, int]]:
    """Return the first and last address of each mapping of the data file of `folder`."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    lines = [line.split() for line in maps.read_text().splitlines() if line.endswith(DATA_FILE)]
    spans = [line[0].split("-") for line in lines if str(folder) in line[-1]]
    return [(int(first, 16), int(last, 16)) for first, last in spans]


def test_chunks_are_views_of_the_mapped_file_and_not_copies(tmp_path: Path) -> None:
    rows = TokenCache(tmp_path).get_or_build("k", {}, write_in_chunks(*some_rows(500)), vocab_size=500)
    chunks = list(rows.chunks())
    spans = maps_of(tmp_path)
    for view in itertools.chain.from_iterable(chunks):
        address = view.__array_interface__["data"][0]
        assert any(first <= address and address + view.nbytes <= last for first, last in spans)
        assert not view.flags.writeable


def test_rows_are_taken_without_mapping_the_file(tmp_path: Path) -> None:
    rows = TokenCache(tmp_path).get_or_build("k", {}, write_in_chunks(*some_rows(500)), vocab_size=500)
    rows.take(range(500))
    assert not maps_of(tmp_path)


def test_a_file_that_becomes_shorter_is_reported_and_not_read_as_zeros(tmp_path: Path) -> None:
    rows = TokenCache(tmp_path).get_or_build("k", {}, write_in_chunks(*some_rows(500)), vocab_size=500)
    os.truncate(tmp_path / "k" / DATA_FILE, 300)
    with pytest.raises(CacheError, match="ends before byte"):
        rows.take([499])


def test_rows_are_there_after_their_folder_is_deleted(tmp_path: Path) -> None:
    ids, segments = some_rows(500)
    rows = TokenCache(tmp_path).get_or_build("k", {}, write_in_chunks(ids, segments), vocab_size=500)
    shutil.rmtree(tmp_path / "k")
    assert np.array_equal(rows.take(range(500))[0], ids)
    assert np.array_equal(np.concatenate([some for _, some in rows.chunks()]), segments)


def test_short_reads_are_continued_and_errors_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, segments = some_rows(500)
    rows = TokenCache(tmp_path).get_or_build("k", {}, write_in_chunks(ids, segments), vocab_size=500)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, place: preadv(file, [buffers[0][:5]], place))
    assert np.array_equal(rows.take([3, 499])[0], ids[[3, 499]])

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(CacheError, match="Input/output error"):
        rows.take([3])


def test_the_manifest_says_what_is_there(tmp_path: Path) -> None:
    ids, segments = some_rows(20)
    TokenCache(tmp_path).get_or_build("k", {"seed": 1}, write_in_chunks(ids, segments), vocab_size=500)
    manifest = json.loads((tmp_path / "k" / MANIFEST_FILE).read_text())
    data = (tmp_path / "k" / DATA_FILE).read_bytes()
    assert manifest == {
        "format": 1,
        "key": "k",
        "parts": {"seed": 1},
        "counts": {"documents": 3},
        "n_rows": 20,
        "row_tokens": 6,
        "dtype": "uint16",
        "n_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def test_rows_travel_to_another_process_by_name(tmp_path: Path) -> None:
    rows = TokenCache(tmp_path).get_or_build("k", {}, write_in_chunks(*some_rows(2000)), vocab_size=500)
    sent = pickle.dumps(rows)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).take([3])[0], rows.take([3])[0])


def test_a_truncated_data_file_is_noticed(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    cache.get_or_build("k", {}, write_in_chunks(*some_rows(20)), vocab_size=500)
    data = tmp_path / "k" / DATA_FILE
    data.write_bytes(data.read_bytes()[:-10])
    with pytest.raises(CacheError, match=r"(?s)data file of \d+ bytes, not \d+.*delete the folder"):
        cache.get_or_build("k", {}, refuse, vocab_size=500)


def test_a_flipped_bit_is_noticed_when_asked_for(tmp_path: Path) -> None:
    TokenCache(tmp_path).get_or_build("k", {}, write_in_chunks(*some_rows(20)), vocab_size=500)
    path = tmp_path / "k" / DATA_FILE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    TokenRows(tmp_path / "k")
    with pytest.raises(CacheError, match="sha256"):
        TokenRows(tmp_path / "k", verify=True)


@pytest.mark.parametrize("content", ["", "{", '{"format": 1, "key": "other"}', '{"format": 0, "key": "k"}'])
def test_a_broken_manifest_is_noticed(tmp_path: Path, content: str) -> None:
    TokenCache(tmp_path).get_or_build("k", {}, write_in_chunks(*some_rows(20)), vocab_size=500)
    (tmp_path / "k" / MANIFEST_FILE).write_text(content)
    with pytest.raises(CacheError, match="manifest"):
        TokenRows(tmp_path / "k")


def test_an_incomplete_folder_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    with pytest.raises(CacheError, match=r"no manifest\.json"):
        TokenRows(tmp_path / "k")


@pytest.mark.parametrize("error", [DataError("a", "b", "c"), KeyboardInterrupt(), OSError("corpus")])
def test_an_error_while_building_passes_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def build(writer: RowWriter) -> dict[str, Any]:
        writer.write(*some_rows(20))
        raise error

    with pytest.raises(type(error)) as caught:
        TokenCache(tmp_path).get_or_build("k", {}, build, vocab_size=500)
    assert caught.value is error
    assert not (tmp_path / "k").exists()


def test_no_rows_is_an_error_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokens"):
        TokenCache(tmp_path).get_or_build("k", {}, lambda writer: {}, vocab_size=500)
    assert not (tmp_path / "k").exists()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="cannot be written"):
        TokenCache(tmp_path / "file").get_or_build("k", {}, refuse, vocab_size=500)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_an_unwritable_folder_is_an_error_of_the_cache(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CacheError, match="cannot be written"):
        TokenCache(tmp_path).get_or_build("k", {}, refuse, vocab_size=500)


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code in another process, with everything that it needs imported."""
    head = """
        import sys, resource, numpy as np
        from pathlib import Path
        from datamodules.cache import TokenCache
        from datamodules.errors import CacheError
        chunk = np.arange(6000, dtype=np.int32).reshape(1000, 6) % 500, np.ones((1000, 6), np.uint16)
        cache = TokenCache(Path(sys.argv[1]))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


BUILD_AND_WAIT = """
    def build(writer):
        writer.write(*chunk)
        print("building", flush=True)
        sys.stdin.readline()
        writer.write(*chunk)
        return {}
    rows = cache.get_or_build("k", {}, build, vocab_size=500)
    print("rows", len(rows), flush=True)
"""


@pytest.mark.slow
def test_of_two_processes_one_builds_and_the_other_waits_and_says_so(tmp_path: Path) -> None:
    first = start(BUILD_AND_WAIT, tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "building\n"
    second = start(BUILD_AND_WAIT, tmp_path)
    assert second.stderr is not None
    assert "waiting for another process" in second.stderr.readline()
    assert first.communicate("go\n")[0] == "rows 2000\n"
    assert second.communicate()[0] == "rows 2000\n"


def test_a_killed_build_leaves_no_manifest_and_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    process = start(BUILD_AND_WAIT, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (tmp_path / "k" / "leftover").write_text("from a killed process")
    assert (tmp_path / "k" / DATA_FILE).stat().st_size > 0
    assert not (tmp_path / "k" / MANIFEST_FILE).exists()
    rows = TokenCache(tmp_path).get_or_build("k", {}, write_in_chunks(*some_rows(20)), vocab_size=500)
    assert len(rows) == 20
    assert sorted(path.name for path in (tmp_path / "k").iterdir()) == [DATA_FILE, MANIFEST_FILE]


@pytest.mark.parametrize("n_chunks", [1, 20])
def test_a_full_disk_is_an_error_of_the_cache_and_leaves_nothing(tmp_path: Path, n_chunks: int) -> None:
    code = """
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        def build(writer):
            for _ in range(int(sys.argv[2])):
                writer.write(*chunk)
            return {}
        try:
            cache.get_or_build("k", {}, build, vocab_size=500)
        except CacheError as error:
            print(error)
    """
    out, err = start(code, tmp_path, n_chunks).communicate()
    assert "cannot be written" in out, err
    assert out.count("\n") == 2
    assert err == ""
    assert not (tmp_path / "k").exists()
