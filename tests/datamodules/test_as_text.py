"""Values that are written as JSON lines: the output exists, whatever a row holds."""

import datetime
import decimal
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.corpus import Columns, read_rows
from datamodules.corpus.as_text import json_line

NOON = datetime.datetime(2020, 1, 1, 12)
IDS: dict[str, tuple[Any, Any]] = {
    "text": (pa.array(["00123"]), "00123"),
    "a whole number": (pa.array([7]), 7),
    "a large number": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "a fraction": (pa.array([1.5]), 1.5),
    "not a number": (pa.array([float("NaN")]), "NaN"),
    "infinity": (pa.array([float("-Infinity")]), "-Infinity"),
    "true": (pa.array([True]), True),
    "null": (pa.array([None], pa.string()), None),
    "only nulls": (pa.array([None]), None),
    "a date": (pa.array([NOON.date()]), "2020-01-01"),
    "a time": (pa.array([NOON.time()]), "12:00:00"),
    "a timestamp": (pa.array([NOON]), "2020-01-01T12:00:00"),
    "nanoseconds": (pa.array([1], pa.timestamp("ns", "UTC")), "1970-01-01T00:00:00.000000001+00:00"),
    "a duration": (pa.array([datetime.timedelta(seconds=3)]), "0:00:03"),
    "a decimal": (pa.array([decimal.Decimal("1.10")]), "1.10"),
    "bytes of text": (pa.array(["ä".encode()]), "ä"),
    "other bytes": (pa.array([b"\xff\x01"]), "ff01"),
    "a category": (pa.array(["a"]).dictionary_encode(), "a"),
    "a map": (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), [["a", 1]]),
    "a UUID": (pa.array([uuid.UUID(int=1).bytes], pa.uuid()), str(uuid.UUID(int=1))),
    "an object": (
        pa.array([{"day": NOON.date(), "n": [float("NaN"), 1.0]}]),
        {"day": "2020-01-01", "n": ["NaN", 1]},
    ),
    "a list": (pa.array([[decimal.Decimal("1.0")]]), ["1.0"]),
}


@pytest.mark.parametrize("what", IDS)
def test_an_id_of_any_type_is_read_and_written(what: str, tmp_path: Path) -> None:
    column, expected = IDS[what]
    pq.write_table(pa.table({"text": ["a"], "id": column}), tmp_path / "a.parquet")
    (row,) = read_rows(tmp_path / "a.parquet", {}, Columns(("text",)), carried=("id",))
    assert json.loads(json_line(row)) == {"text": "a", "id": expected}


def test_a_line_is_json_of_the_standard_and_one_line() -> None:
    record = {"text": "ä\n\u2028", 1: np.float32(0.5), "many": (np.arange(2), float("inf"), {1})}
    line = json_line(record)
    assert "ä" in line
    assert "\n" not in line
    assert json.loads(line) == {"text": "ä\n\u2028", "1": 0.5, "many": [[0, 1], "Infinity", "{1}"]}
