"""Labels as they occur in rows (text, whole numbers, or lists of these), and their class indices."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datamodules.corpus.as_text import label_text
from datamodules.errors import DataError
from pipeline.tasks.finetuning import number_of

#: The number of labels that an error message shows before it only counts them.
_NAMED = 5

_WHOLE_NUMBER, _PLACE = re.compile(r"-?[0-9]{1,18}"), re.compile(r"0|[1-9][0-9]{0,8}")
_LIST, _NUMBER, _TEXT, _BOOL = "a list of labels", "a whole number", "text", "true or false"
_KINDS = {_LIST, _NUMBER, _TEXT, _BOOL}


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The names of the classes, in the order of the model's outputs.

    Args:
        names: one name per class.
        numbered: whether a row may name a class by its index in `names`. Only if the user set their order; in
            names that were collected from rows, 3 is the name "3".
    """

    names: tuple[str, ...]
    numbered: bool = False

    def place(self, label: Any) -> int | None:
        """Return the class index of a label; None if it is unknown."""
        name = label_text(label)
        if self.numbered and is_place(name):
            return int(name) if int(name) < len(self.names) else None
        return self._places.get(name.casefold() if self._booleans else name)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name.casefold() if self._booleans else name: place for place, name in enumerate(self.names)}

    @cached_property
    def _booleans(self) -> bool:
        """Whether the classes are true and false, which files spell in several ways."""
        return sorted(name.casefold() for name in self.names) == ["false", "true"]


def labels_of(label: Any) -> list[Any]:
    """Return the labels of a row as a list, which is empty if the label is missing."""
    if isinstance(label, list | tuple):
        return [one for one in label if not _is_missing(one)]
    return [] if _is_missing(label) else [label]


def collected_names(labels: Iterable[Any]) -> list[str]:
    """Return all labels that occur, sorted as numbers if all of them are, otherwise alphabetically."""
    names = sorted({label_text(one) for label in labels for one in labels_of(label)})
    return sorted(names, key=int) if are_numbers(names) else names


def are_numbers(names: Iterable[str]) -> bool:
    """Return whether every name is a whole number."""
    return all(_WHOLE_NUMBER.fullmatch(name) for name in names)


def is_place(name: str) -> bool:
    """Return whether a label may be a class index: 7, but not 007."""
    return _PLACE.fullmatch(name) is not None


def check_labels(labels: Sequence[Any], table: LabelTable | None, split: str) -> None:
    """Check that no label is missing, all have the same type, and all are in the table.

    Raises:
        DataError: names the split, the first such row and the labels.
    """
    kinds = [_kind(label) for label in labels]
    if None in kinds:
        _refuse_missing(labels, kinds, split)
    found: Mapping[str | None, int] = Counter(kinds)
    if len(found) > 1:
        usual = max(found, key=lambda kind: found[kind])
        row = next(i for i, kind in enumerate(kinds) if kind != usual)
        raise DataError(
            f"{split}, row {number_of(labels, row)}: the label {labels[row]!r} is {kinds[row]}",
            f"{usual}, as in {found[usual]:,} other rows",
            "give every row the same kind of label",
        )
    if not found.keys() <= _KINDS:
        raise DataError(
            f"{split}, row {number_of(labels, 0)}: the label {labels[0]!r} is {kinds[0]}",
            "text, a whole number, or a list of these",
            "name the right column with data.columns.label=...",
        )
    if table is not None:
        _refuse_unknown(labels, table, split)


def _refuse_missing(labels: Sequence[Any], kinds: Sequence[str | None], split: str) -> None:
    number = number_of(labels, kinds.index(None))
    raise DataError(
        f"{split}, row {number}: the label is missing ({kinds.count(None):,} such rows)",
        "a label in every row",
        "drop these rows, or name the right column with data.columns.label=...",
    )


def _refuse_unknown(labels: Sequence[Any], table: LabelTable, split: str) -> None:
    unknown: dict[str, int] = {}
    for row, label in enumerate(labels):
        for one in labels_of(label):
            if table.place(one) is None:
                unknown.setdefault(label_text(one), row)
    if unknown:
        row = next(iter(unknown.values()))
        verb = "is not a label" if len(unknown) == 1 else "are not labels"
        raise DataError(
            f"{split}, row {number_of(labels, row)}: {listed(unknown)} {verb} of the training rows",
            f"a label of the training rows: {listed(table.names)}",
            f"add training rows with these labels, or drop the rows from {split}",
        )


def listed(names: Iterable[str]) -> str:
    """Return the first few names in quotes, and the number of those left out."""
    every = list(names)
    shown = ", ".join(f"'{name}'" for name in every[:_NAMED])
    return shown if len(every) <= _NAMED else f"{shown} and {len(every) - _NAMED:,} more"


def _kind(label: Any) -> str | None:
    """Return the kind of a label in words; None if it is missing."""
    if isinstance(label, list | tuple):
        return None if any(_is_missing(one) for one in label) else _LIST
    if _is_missing(label):
        return None
    if isinstance(label, bool):
        return _BOOL
    if isinstance(label, int) or (isinstance(label, float) and label.is_integer()):
        return _NUMBER
    return _TEXT if isinstance(label, str) else f"a {type(label).__name__}"


def _is_missing(label: Any) -> bool:
    empty_text = isinstance(label, str) and not label.strip()
    return label is None or empty_text or (isinstance(label, float) and math.isnan(label))
