"""The forms of values that each column may contain, and errors for others."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import DataError

_TEXTS = (
    "text",
    "text_pair",
    "context",
    "question",
    "source",
    "target",
    "source_language",
    "target_language",
)

FORMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_TEXTS, ("text",)),
    "label": ("text", "a number", "true or false", "a list of texts"),
    "summary": ("text", "a list of texts"),
    "answers": ("an object",),
    "turns": ("a list of texts", "a list of objects"),
}
"""Column that tasks read -> the forms that its values may have, the same one in all rows. Other columns may
contain anything that has the same form in every row."""

FIELDS: dict[str, tuple[str, ...]] = {
    "answers": ("text", "answer_start"),
    "turns": ("role", "speaker", "text", "content"),
}
"""Column -> the fields that are read of the objects in it; other fields may have any type."""

_DIALOGUES = {"a list of texts", "a list of objects"}
_NUMBERS = {"a number", "a number with a fraction"}
_EMPTY = "an empty list"
LISTS = {_EMPTY, "a list", "a list of texts", "a list of objects"}
_PLAIN: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number with a fraction",
    dict: "an object",
    type(None): "null",
}


def only_text(name: str) -> bool:
    """Return whether a column may only contain text."""
    return FORMS.get(name) == ("text",)


def form_of(value: Any) -> str:
    """Return the form of a value, in the words of error messages."""
    if isinstance(value, float) and value.is_integer():
        return "a number"
    if not isinstance(value, list):
        return _PLAIN.get(type(value), type(value).__name__)
    if not value:
        return _EMPTY
    forms = {_PLAIN.get(type(item), "other") for item in value}
    return {"text": "a list of texts", "an object": "a list of objects"}.get("".join(forms), "a list")


def form_of_type(kind: pa.DataType) -> str:
    """Return the form of the values of an Arrow column, in the same words."""
    types = pa.types
    if types.is_dictionary(kind):
        return form_of_type(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = form_of_type(kind.value_type)
        return (
            _EMPTY
            if inner == "null"
            else {"text": "a list of texts", "an object": "a list of objects"}.get(inner, "a list")
        )
    if types.is_integer(kind):
        return "a number"
    if types.is_struct(kind):
        return "an object"
    if types.is_floating(kind):
        return "a number with a fraction"
    if types.is_null(kind):
        return "null"
    return "true or false" if types.is_boolean(kind) else f"values of type {kind}"


def check_form(name: str, form: str, where: str, path: str) -> None:
    """Reject a form that the column `name`, read from `path`, may not contain.

    Raises:
        DataError: if the form is not allowed; the error names the position and the allowed forms.
    """
    allowed = FORMS.get(name)
    if allowed is None or form in allowed or (form == _EMPTY and not LISTS.isdisjoint(allowed)):
        return
    raise wrong_form(where, path, form, " or ".join(allowed))


def check_value(name: str, value: Any, where: str, path: str) -> str:
    """Reject a value that the column `name` may not contain, and text that is not Unicode; return its form.

    Raises:
        DataError: if the value is not allowed; the error names the position and the allowed forms.
    """
    form = form_of(value)
    check_form(name, form, where, path)
    if isinstance(value, str) and not value.isascii() and _has_lone_surrogate(value):
        raise wrong_form(where, path, "half of a surrogate pair (\\ud800 to \\udfff)")
    return form


def read_fields(name: str, value: Any) -> Any:
    """Return a value of the column `name`, in which objects have only the fields that are read."""
    if isinstance(value, list):
        return [read_fields(name, item) for item in value]
    if name not in FIELDS or not isinstance(value, dict):
        return value
    return {field: value[field] for field in FIELDS[name] if field in value}


def in_one_form(values: list[Any]) -> list[Any]:
    """Return dialogues in one form: if some are lists of objects, lists of texts become lists of objects."""
    if not {"a list of texts", "a list of objects"} <= {form_of(value) for value in values}:
        return values
    return [_as_objects(value) if form_of(value) == "a list of texts" else value for value in values]


def _as_objects(turns: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "text": text} for i, text in enumerate(turns)]


def tables_in_one_form(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Return tables with the same columns, in which dialogues have one form."""
    tables = list(tables)
    for name in tables[0].column_names:
        forms = [form_of_type(table.schema.field(name).type) for table in tables]
        for number, form in enumerate(forms) if set(forms) >= _DIALOGUES else ():
            if form == "a list of texts":
                column = pa.array(_as_objects(turns) for turns in tables[number].column(name).to_pylist())
                place = tables[number].column_names.index(name)
                tables[number] = tables[number].set_column(place, name, column)
    return tables


def agree(one: str, other: str) -> bool:
    """Return whether a column may contain both forms: equal, null, numbers, dialogues, or an empty list."""
    if one == other or "null" in (one, other) or {one, other} in (_NUMBERS, _DIALOGUES):
        return True
    return _EMPTY in (one, other) and {one, other} <= LISTS


def check_column(name: str, column: pa.ChunkedArray, where: str, path: str, n_rows_before: int = 0) -> None:
    """Reject an Arrow column with another type or with nulls, if it is one that tasks read.

    Raises:
        DataError: if the column is invalid; the error names the row of a null.
    """
    if name not in FORMS:
        return
    form = form_of_type(column.type)
    if form == "a number with a fraction" and _is_whole(column):
        form = "a number"
    expected = " or ".join(FORMS[name])
    empty = form in ("null", _EMPTY)
    if form not in FORMS[name] and not empty:
        raise wrong_form(where, path, f"values of type {column.type}", expected)
    column.validate(full=True)
    if column.null_count:
        row = n_rows_before + column.is_null().index(True).as_py() + 1
        raise wrong_form(f"{where}, row {row}", path, "null", expected)


def _is_whole(column: pa.ChunkedArray) -> bool:
    """Return whether all numbers are whole; tables that once had missing values store them as 1.0."""
    return bool(pc.all(pc.equal(column, pc.floor(column))).as_py())


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def wrong_form(where: str, path: str, found: str, expected: str = "text") -> DataError:
    """Return the error for a row with a value that its column may not contain."""
    return DataError(
        f"{where}: column '{path}' contains {found}", f"{expected} in every row", "correct or remove the row"
    )
