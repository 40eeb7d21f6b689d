"""Convert values to text, and labels of different types to one type."""

import datetime
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.corpus.columns import LABEL
from datamodules.corpus.forms import LISTS, form_of_type


def label_text(label: Any) -> str:
    """Return a label as text; 1 and 1.0 become "1", so that classes are the same in every kind of file."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def value_text(value: Any) -> str:
    """Return any value as text: dates in ISO 8601, bytes as UTF-8 or else hexadecimal, objects as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, dict | list | bool | int | float):
        return json.dumps(value, ensure_ascii=False, default=value_text)
    return str(value)


def json_line(record: Mapping[str, Any]) -> str:
    """Return a record as JSON on one line; values that JSON lacks, such as dates and NaN, become text."""
    plain = _plain(record)
    line = json.dumps(plain, ensure_ascii=False, allow_nan=False)
    return line if _is_unicode(line) else json.dumps(plain, allow_nan=False)


def _is_unicode(text: str) -> bool:
    """Return whether text can be encoded; lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {value_text(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else value_text(value)


def text_array(values: Iterable[Any], text: Callable[[Any], str] = value_text) -> pa.Array:
    """Return values as an Arrow array of texts, in which nulls are kept."""
    return pa.array([None if value is None else text(value) for value in values], pa.large_string())


def of_one_type(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Return tables with the same columns, in which labels are converted to text if their types differ."""
    if not tables or LABEL not in tables[0].column_names:
        return list(tables)
    place = tables[0].column_names.index(LABEL)
    forms = {form_of_type(table.schema.field(LABEL).type) for table in tables} - {"null"}
    if len(forms) < 2 or forms & LISTS:
        return list(tables)
    return [
        table.set_column(place, LABEL, text_array(table.column(LABEL).to_pylist(), label_text))
        for table in (table.select(tables[0].column_names) for table in tables)
    ]
