"""Corpora from local files: plain text, JSON Lines, CSV or Parquet, with or without held-out files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from datamodules.corpus.columns import LABEL, TEXT_ONLY, Columns, Places
from datamodules.corpus.formats import heading
from datamodules.corpus.forms import LISTS, agree, form_of_type
from datamodules.corpus.held_out import hold_out, too_little
from datamodules.corpus.notes import notes_on
from datamodules.corpus.rows import TEXT, Corpus, Rows, fingerprint_of, rows_digest
from datamodules.corpus.source_file import SourceFile, find_files
from datamodules.corpus.store import stored_rows
from datamodules.errors import DataError
from datamodules.source import Source

Pattern = str | list[str]
"""A path, a folder, a glob pattern, or a list of these."""


@dataclass(frozen=True)
class Files(Source):
    """A corpus in local files: .txt, .jsonl, .json, .csv, .tsv, .conll, each also .gz, and .parquet.

    A .txt file is one row (one document); other files have one row per line, object or record.

    Args:
        train: a path, a folder of files of one kind, a glob pattern, or a list of these.
        validation: the same; without it, a part of `train` is held out, always the same part.
        columns: name of a column of the rows -> its name in the files, or a path into objects, such as
            `answers.text`. A column that is not named here is read under its own name.
        validation_fraction: the fraction to hold out without `validation`: the rows with the smallest hashes
            (rows that are equal in the first column stay together, and each class keeps a row for training),
            or the end of a single text, from the beginning of a line.
        name: short name of the corpus; by default that of the first file.
        test: files of test rows, which are used only once, at the end; without it there are none.
    """

    train: Pattern
    validation: Pattern | None = None
    columns: dict[str, str] = field(default_factory=dict)
    validation_fraction: float = 0.05
    name: str | None = None
    test: Pattern | None = None

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise DataError(
                f"validation_fraction is {self.validation_fraction}",
                "more than 0 and less than 1",
                "set it to 0.05",
            )

    def load(self, columns: Columns = TEXT_ONLY) -> Corpus:
        """Read and check the files.

        Raises:
            DataError: if a file is invalid; the error names the file and the line.
        """
        files = self._files()
        places = Places.of(columns, self._names(columns, files["train"][0]))
        parts = {split: stored_rows(some, places) for split, some in files.items()}
        if self.validation is None:
            parts = self._held_out(parts, columns, files["train"])
        notes = notes_on(self._patterns(), files, places.paths)
        digests = {split: rows_digest(rows.with_format("arrow")[:]) for split, rows in parts.items()}
        _check_rows_differ(digests, {"validation": self.validation, "test": self.test})
        check_same_types(parts)
        return Corpus(
            name=self.name or _stem(files["train"][0].path),
            train=parts["train"],
            validation=parts["validation"],
            test=parts.get("test"),
            fingerprint=fingerprint_of(**digests),
            sources=[
                {"uri": str(source.path), "sha256": source.sha256, "n_bytes": source.n_bytes, "split": split}
                for split, some in files.items()
                for source in some
            ],
            notes=notes,
        )

    def identity(self) -> str:
        """Return a hash of the bytes of all files, in order, which identifies the rows without reading them.

        Raises:
            DataError: if a file does not exist, is empty, or cannot be read.
        """
        files = self._files()
        return fingerprint_of(
            files={split: [source.sha256 for source in some] for split, some in files.items()}
        )

    def snapshot(self) -> str:
        """Return a hash of the names and bytes of all files.

        Raises:
            DataError: if a file does not exist, is empty, or cannot be read.
        """
        files = self._files()
        return fingerprint_of(
            files={split: [[str(one.path), one.sha256] for one in some] for split, some in files.items()}
        )

    def _patterns(self) -> dict[str, Pattern]:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: pattern for split, pattern in splits.items() if pattern or split == "train"}  # type: ignore[misc]

    def _files(self) -> dict[str, list[SourceFile]]:
        files: dict[str, list[SourceFile]] = {}
        for split, patterns in self._patterns().items():
            found = find_files(patterns, f"data.{split}")
            for other, some in files.items():
                _check_files_differ(split, found, other, some)
            files[split] = found
        return files

    def _names(self, columns: Columns, source: SourceFile) -> dict[str, str]:
        """Return the given names, and the alternative names that the file has."""
        if not columns.other_names:
            return self.columns
        header = heading(source, columns.possible_names(self.columns))
        return columns.found_names(self.columns, header.has)

    def _held_out(
        self, parts: Mapping[str, Rows], columns: Columns, files: list[SourceFile]
    ) -> dict[str, Rows]:
        """Split the training rows into training and validation rows."""
        rows, first = parts["train"], columns.required[0]
        if len(rows) == 1 and files[0].kind == ".txt" and first == TEXT:
            train, validation = _cut_text(rows[0][TEXT], self.validation_fraction, files[0])
        else:
            train, validation = hold_out(rows, first, self.validation_fraction, str(files[0].path))
        return {"train": train, "validation": validation, **{k: v for k, v in parts.items() if k == "test"}}


@dataclass(frozen=True)
class Mirror(Source):
    """A corpus in a folder of local copies, for data sets that are not on the Hub.

    Args:
        folder: the folder of local copies; None raises an error that says what to set.
        train: a path or glob pattern in the folder, or a list of these.
        validation: the same; without it, a part of `train` is held out.
        columns: name of a column of the rows -> its name in the files, as in `Files`.
        name: short name of the corpus.
        validation_fraction: the fraction to hold out without `validation`, as in `Files`.
        test: files of test rows, which are used only once, at the end; without it there are none.
    """

    folder: str | None
    train: Pattern
    validation: Pattern | None = None
    columns: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    validation_fraction: float = 0.05
    test: Pattern | None = None

    def load(self, columns: Columns = TEXT_ONLY) -> Corpus:
        """Read and check the files.

        Raises:
            DataError: if there is no mirror, or a file is invalid.
        """
        return self._files().load(columns)

    def identity(self) -> str:
        """Return a hash of the bytes of all files.

        Raises:
            DataError: if there is no mirror, or a file does not exist.
        """
        return self._files().identity()

    def snapshot(self) -> str:
        """Return a hash of the names and bytes of all files.

        Raises:
            DataError: if there is no mirror, or a file does not exist.
        """
        return self._files().snapshot()

    def _files(self) -> Files:
        if not self.folder:
            raise DataError(
                f"PRELUDE_DATA is not set, but {self.name or self.train} is only in a local mirror",
                f"a folder that contains {self.train}",
                "set PRELUDE_DATA=FOLDER, or choose data=storyworld or a corpus on the Hub",
            )
        folder = Path(self.folder).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"PRELUDE_DATA={self.folder} is not a folder", "a folder of local copies", "check the path"
            )
        return Files(
            _in_folder(folder, self.train),
            _in_folder(folder, self.validation) if self.validation else None,
            columns=self.columns,
            name=self.name,
            validation_fraction=self.validation_fraction,
            test=_in_folder(folder, self.test) if self.test else None,
        )


def _in_folder(folder: Path, patterns: Pattern) -> Pattern:
    return str(folder / patterns) if isinstance(patterns, str) else [str(folder / name) for name in patterns]


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or path.name


def _check_files_differ(split: str, found: list[SourceFile], other: str, files: list[SourceFile]) -> None:
    by_hash = {source.sha256: source.path for source in files}
    for source in found:
        if source.sha256 in by_hash:
            raise DataError(
                f"{split} file {source.path} is identical to {_NAMED[other]} file {by_hash[source.sha256]}",
                _EXPECTED[other],
                _REMEDY[split],
            )


def _check_rows_differ(digests: Mapping[str, str], patterns: Mapping[str, Pattern | None]) -> None:
    for split, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        if split in digests and digests[split] == digests[other]:
            raise DataError(
                f"the {split} rows of {patterns[split]} are identical to the {_NAMED[other]} rows",
                _EXPECTED[other],
                _REMEDY[split],
            )


_NAMED = {"train": "training", "validation": "validation"}
_EXPECTED = {"train": "text that is not trained on", "validation": "rows that do not select a model"}
_REMEDY = {
    "validation": "give another file, or leave out data.validation to hold out a part of data.train",
    "test": "give another file, or leave out data.test",
}


def check_same_types(parts: Mapping[str, Rows]) -> None:
    """Reject splits in which a column has different types.

    Raises:
        DataError: if a column has different types; the error names the types in both splits.
    """
    train = parts["train"].data.schema
    for split, rows in parts.items():
        other = rows.data.schema
        for name in dict.fromkeys([*train.names, *other.names]):
            here, there = (
                form_of_type(schema.field(name).type) if name in schema.names else "nothing"
                for schema in (train, other)
            )
            if name == LABEL and not {here, there} & LISTS:
                continue  # classes are compared as text
            if not agree(here, there):
                raise DataError(
                    f"column '{name}' contains {here} in train and {there} in {split}",
                    "the same type in all splits",
                    "correct one of the files",
                )


def _cut_text(text: str, fraction: float, source: SourceFile) -> tuple[Rows, Rows]:
    """Split off the last `fraction` of a text at the beginning of a line, or of a word in a single line."""
    target = int(len(text) * (1 - fraction))
    places = (
        text.rfind("\n", 0, target) + 1,
        text.find("\n", target) + 1,
        text.rfind(" ", 0, target) + 1,
        target,
    )
    cut = next(place for place in places if 0 < place < len(text) or place == target)
    if not (text[:cut].strip() and text[cut:].strip()):
        raise too_little(str(source.path))
    return _one_row(text[:cut]), _one_row(text[cut:])


def _one_row(text: str) -> Rows:
    import datasets

    return datasets.Dataset(pa.table({TEXT: pa.array([text], pa.large_string())}))
