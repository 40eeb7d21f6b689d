import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from datamodules.corpus import Columns, Files, batches
from datamodules.corpus.batches import in_batches, rows_at_once
from datamodules.corpus.formats import parquet_rows_at_once
from datamodules.corpus.held_out import n_also_in
from datamodules.corpus.rows import texts

WRITERS: dict[str, Callable[[pa.Table, str], None]] = {
    "csv": pyarrow.csv.write_csv,
    "parquet": pyarrow.parquet.write_table,
}


def test_short_rows_are_read_by_number_and_long_ones_by_size() -> None:
    assert rows_at_once(100_000, 100_000 * 50, most=256) == 256
    assert rows_at_once(1_000, 1_000 * 2**20, most=256) == 4
    assert rows_at_once(10, 10 * 2**30, most=256) == 1
    assert rows_at_once(0, 0, most=256) == 1
    assert rows_at_once(1_000, 1_000 * 2**20, most=256, least_bytes=2**24) == 16


def test_columns_that_are_not_read_do_not_count(tmp_path: Path) -> None:
    table = pa.table({"text": [str(number) for number in range(100)], "image": ["x" * 2**20] * 100})
    pa.parquet.write_table(table, tmp_path / "a.parquet", use_dictionary=False)
    file = pa.parquet.ParquetFile(tmp_path / "a.parquet")
    assert parquet_rows_at_once(file, ["text"]) == 8192
    assert parquet_rows_at_once(file) == parquet_rows_at_once(file, ["text", "image"]) == 3


def test_batches_end_at_a_number_or_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SIZE_AT_ONCE", 10)
    sizes = [1, 1, 1, 1, 9, 1, 30, 4]
    assert list(in_batches(sizes, int, most=3)) == [[1, 1, 1], [1, 9], [1, 30], [4]]
    assert list(in_batches([], int, most=3)) == []


@pytest.mark.parametrize("kind", WRITERS)
def test_files_with_long_rows_are_read_in_parts(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    written = [f"{number} " * 500 for number in range(40)]
    WRITERS[kind](pa.table({"text": written, "label": ["a", "b"] * 20}), str(tmp_path / f"a.{kind}"))
    WRITERS[kind](pa.table({"text": written[:7], "label": ["a"] * 7}), str(tmp_path / f"v.{kind}"))

    def read() -> tuple[list[str], int, int]:
        files = Files(str(tmp_path / f"a.{kind}"), str(tmp_path / f"v.{kind}"))
        corpus = files.load(Columns(("text", "label")))
        train, validation = corpus.train, corpus.validation
        n_parts = train.data.column("text").num_chunks  # type: ignore[attr-defined]
        return list(texts(train)), n_parts, n_also_in(validation, train, ["text"])

    assert read() == (written, 1, 7)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "other")
    monkeypatch.setattr(batches, "SIZE_AT_ONCE", 4_000)
    read_texts, n_parts, n_repeated = read()
    assert (read_texts, n_repeated) == (written, 7)
    assert n_parts > 5


def test_comparing_splits_needs_no_memory_for_long_training_rows(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import datasets, pyarrow as pa
        from datamodules.corpus.held_out import n_also_in
        with pa.OSFile("{tmp_path}/train.arrow", "wb") as sink:
            schema = pa.schema([("text", pa.large_string())])
            with pa.ipc.new_stream(sink, schema) as writer:
                for number in range(64):
                    writer.write_table(pa.table({{"text": [f"{{number:08}}" * 2**17]}}, schema))
        before = pa.default_memory_pool().max_memory()
        train = datasets.Dataset.from_file("{tmp_path}/train.arrow")
        held_out = datasets.Dataset.from_dict({{"text": ["x", "00000005" * 2**17]}})
        assert n_also_in(held_out, train, ["text"]) == 1
        print(before, pa.default_memory_pool().max_memory())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    before, after = map(int, done.stdout.split())
    assert after - before < 32 * 2**20  # the training rows are 64 MB
