"""Which columns of a file are read, by which name, and what each may hold."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from datamodules.corpus.proposals import Sample, missing_column
from datamodules.corpus.rows import TEXT

LABEL = "label"

Present = dict[str, str]
"""Column of the rows -> its place in a file: for the columns that the file has."""


@dataclass(frozen=True)
class Columns:
    """The columns that a task reads.

    Args:
        required: columns that every row must have. Rows that are equal in the first of them stay together
            when a part is held out: the questions on one context, for example.
        optional: columns that are read where a file has them.
        other_names: what files may call a column for which nobody has said another name: the first of these
            names that a file has is read, or else the column's own name.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    other_names: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)

    def possible_names(self, said: Mapping[str, str]) -> set[str]:
        """All names that a file may have for the columns."""
        names = {*self.required, *self.optional, *said.values()}
        return names.union(*self.other_names.values())

    def found_names(self, said: Mapping[str, str], has: Callable[[str], bool]) -> dict[str, str]:
        """The names that were `said`, and of the other columns the first that a file has, or would have."""
        found = {
            name: next(filter(has, (*others, name)), others[0])
            for name, others in self.other_names.items()
            if others and name in (*self.required, *self.optional)
        }
        there = {name: path for name, path in found.items() if name in self.required or has(path)}
        return there | dict(said)


TEXT_ONLY = Columns((TEXT,))
"""What pretraining reads."""


@dataclass(frozen=True)
class Places:
    """Column of the rows -> its place in the files: a name, or a path into objects as `answers.text`.

    `key` is what the command calls the names, for errors.
    """

    required: Mapping[str, str]
    optional: Mapping[str, str]
    key: str = "data.columns"

    @classmethod
    def of(cls, columns: Columns, names: Mapping[str, str], key: str = "data.columns") -> Self:
        """Find the places; a column that is not in `names` is read under its own name.

        An optional column that `names` has is required: whoever names it expects it to be read.
        """
        named = [name for name in columns.optional if name in names]
        required = {name: names.get(name, name) for name in (*columns.required, *named)}
        optional = {name: name for name in columns.optional if name not in required}
        return cls(required, optional, key)

    @property
    def text_only(self) -> bool:
        """Whether nothing but text is read, which is done fast."""
        return list(self.required) == [TEXT] and not self.optional

    def present(
        self, where: str, paths: Iterable[str], names: Sequence[str], sample: Callable[[], Sample] = tuple
    ) -> Present:
        """Give the columns that are there.

        Args:
            where: what is read, for errors.
            paths: the places that are there, of those that are wanted.
            names: the columns that are there, for errors.
            sample: gives some rows, for errors.

        Raises:
            DataError: a required column is not there.
        """
        there = set(paths)
        for name, path in self.required.items():
            if path not in there:
                taken = [other for other in self.paths if other in there]
                raise missing_column(
                    where, path, names, name=name, key=self.key, taken=taken, sample=sample()
                )
        return dict(self.required) | {name: path for name, path in self.optional.items() if path in there}

    @property
    def paths(self) -> list[str]:
        """All places, each once."""
        return list(dict.fromkeys([*self.required.values(), *self.optional.values()]))


def root_of(path: str, names: Iterable[str]) -> str:
    """The column that a place is in: a column of just this name, or else the path's first part."""
    return path if path in set(names) else path.partition(".")[0]


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """What a row holds at a place.

    Raises:
        KeyError: there is no such place in it.
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
    """Whether a row has something at a place."""
    try:
        value_at(row, path)
    except KeyError:
        return False
    return True
