"""The columns that are read from a file, and their names there."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from datamodules.corpus.proposals import Sample, missing_column
from datamodules.corpus.rows import TEXT

LABEL = "label"

Present = dict[str, str]
"""Column of the rows -> its path in a file, for the columns that the file has."""


@dataclass(frozen=True)
class Columns:
    """The columns that a task reads.

    Args:
        required: columns that every row must have. Rows that are equal in the first of them stay together
            when a part is held out, such as the questions on one context.
        optional: columns that are read if a file has them.
        other_names: alternative names of a column in files, if the user gave none; the first of these names
            that a file has is read, or else the column's own name.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    other_names: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)

    def possible_names(self, given: Mapping[str, str]) -> set[str]:
        """Return all names that the columns may have in a file."""
        names = {*self.required, *self.optional, *given.values()}
        return names.union(*self.other_names.values())

    def found_names(self, given: Mapping[str, str], has: Callable[[str], bool]) -> dict[str, str]:
        """Return the `given` names, and for other columns the first alternative name that a file has."""
        found = {
            name: next(filter(has, (*others, name)), others[0])
            for name, others in self.other_names.items()
            if others and name in (*self.required, *self.optional)
        }
        present = {name: path for name, path in found.items() if name in self.required or has(path)}
        return present | dict(given)


TEXT_ONLY = Columns((TEXT,))
"""The column that pretraining reads."""


@dataclass(frozen=True)
class Places:
    """Column of the rows -> its name in the files, or a path into objects such as `answers.text`.

    `key` is the configuration key of these names, for error messages.
    """

    required: Mapping[str, str]
    optional: Mapping[str, str]
    key: str = "data.columns"

    @classmethod
    def of(cls, columns: Columns, names: Mapping[str, str], key: str = "data.columns") -> Self:
        """Create the places from given names; a column that is not in `names` is read under its own name.

        An optional column that is in `names` becomes required, since the user expects it to be read.
        """
        named = [name for name in columns.optional if name in names]
        required = {name: names.get(name, name) for name in (*columns.required, *named)}
        optional = {name: name for name in columns.optional if name not in required}
        return cls(required, optional, key)

    @property
    def text_only(self) -> bool:
        """Whether only text is read, for which there is a fast path."""
        return list(self.required) == [TEXT] and not self.optional

    def present(
        self, where: str, paths: Iterable[str], names: Sequence[str], sample: Callable[[], Sample] = tuple
    ) -> Present:
        """Return the columns that are present.

        Args:
            where: the file, for error messages.
            paths: the requested paths that are present.
            names: all columns of the file, for error messages.
            sample: returns some rows, for error messages.

        Raises:
            DataError: if a required column is missing.
        """
        available = set(paths)
        for name, path in self.required.items():
            if path not in available:
                taken = [other for other in self.paths if other in available]
                raise missing_column(
                    where, path, names, name=name, key=self.key, taken=taken, sample=sample()
                )
        return dict(self.required) | {name: path for name, path in self.optional.items() if path in available}

    @property
    def paths(self) -> list[str]:
        """All paths, each once."""
        return list(dict.fromkeys([*self.required.values(), *self.optional.values()]))


def root_of(path: str, names: Iterable[str]) -> str:
    """Return the column of a path: the column with exactly this name, or else the first part of the path."""
    return path if path in set(names) else path.partition(".")[0]


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """Return the value of a row at a path.

    Raises:
        KeyError: if the row has no such path.
    """
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(path)
        value = value[name]
    return value


def has(row: Mapping[str, Any], path: str) -> bool:
    """Return whether a row has a value at a path."""
    try:
        value_at(row, path)
    except KeyError:
        return False
    return True
