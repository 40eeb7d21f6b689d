"""Select columns of Arrow tables by name or path, and replace class numbers by names."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute

from datamodules.corpus.columns import root_of
from datamodules.errors import DataError

ClassNames = Mapping[str, list[str]]
"""Column -> the names of its classes, in order."""


def in_schema(schema: pa.Schema, path: str) -> bool:
    """Return whether a table with this schema has a column with this name, or a field at this path."""
    root = root_of(path, schema.names)
    if root not in schema.names:
        return False
    kind = schema.field(root).type
    for name in _below(path, root):
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return False
        kind = kind.field(name).type
    return True


def column_at(table: pa.Table, path: str, class_names: ClassNames, where: str) -> pa.ChunkedArray:
    """Return a column by its name, or a field by its path, with classes as names.

    Raises:
        DataError: if a row has no class (-1, as in test splits whose labels are secret).
    """
    root = root_of(path, table.column_names)
    column = table.column(root)
    for name in _below(path, root):
        column = pa.compute.struct_field(column, name)
    return _named(column, class_names[path], f"{where}, column '{path}'") if path in class_names else column


def class_names_of(schema: pa.Schema) -> ClassNames:
    """Return the class names that the `datasets` library stores in the metadata of its files."""
    written = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(written).get("info", {}).get("features", {}) if written else {}
    return {name: names for name, feature in features.items() if (names := _names(feature))}


def _names(feature: Any) -> list[str] | None:
    """Return the names in the library's description of a class, or of a list of classes."""
    if not isinstance(feature, dict):
        return None
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else _names(feature.get("feature"))
    return list(names) if names else None


def _named(column: pa.ChunkedArray, names: list[str], where: str) -> pa.ChunkedArray:
    chunks = [_named_chunk(chunk, pa.array(names, pa.large_string()), where) for chunk in column.chunks]
    return pa.chunked_array(chunks) if chunks else column


def _named_chunk(chunk: pa.Array, names: pa.Array, where: str) -> pa.Array:
    if pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
        inner = _named_chunk(chunk.flatten(), names, where)
        lengths = pa.compute.list_value_length(chunk).fill_null(0)
        offsets = pa.compute.cumulative_sum(lengths).cast(pa.int32())
        return pa.ListArray.from_arrays(pa.concat_arrays([pa.array([0], pa.int32()), offsets]), inner)
    out = pa.compute.or_(pa.compute.less(chunk, 0), pa.compute.greater_equal(chunk, len(names)))
    if pa.compute.any(out).as_py():
        raise DataError(
            f"{where} has a row of class {chunk.filter(out)[0]}",
            f"a class from 0 to {len(names) - 1}",
            "choose another split: this one has no labels",
        )
    return names.take(chunk)


def _below(path: str, root: str) -> list[str]:
    return [] if path == root else path.split(".")[1:]
