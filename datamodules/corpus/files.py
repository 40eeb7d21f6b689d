"""Corpora from local files: any text, JSON lines, CSV or Parquet, with or without a validation part."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from datamodules.corpus.rows import TEXT, Corpus, Rows, fingerprint_of, rows_digest, texts
from datamodules.corpus.source_file import SourceFile, find_files
from datamodules.corpus.store import stored_rows
from datamodules.errors import DataError


@dataclass(frozen=True)
class Files:
    """A corpus in local files: .txt, .jsonl, .json, .csv, .tsv, each also .gz, and .parquet.

    A .txt file is one row (one document); the others have one row a line, object or record.

    Args:
        train: a path, a pattern, or a list of these.
        validation: the same; without it a part of `train` is held out, always the same part.
        columns: name of a column of the rows -> its name in the files. `text` must be there.
        validation_fraction: how much to hold out when there is no `validation`: the rows with the smallest
            hashes (equal rows stay together), or of one single text its end, from a line's beginning on.
        name: short name of the corpus; by default that of the first file.
    """

    train: str | list[str]
    validation: str | list[str] | None = None
    columns: dict[str, str] = field(default_factory=lambda: {TEXT: TEXT})
    validation_fraction: float = 0.05
    name: str | None = None

    def __post_init__(self) -> None:
        check_columns(self.columns)
        if not 0 < self.validation_fraction < 1:
            raise DataError(
                f"validation_fraction is {self.validation_fraction}",
                "more than 0 and less than 1",
                "set it to 0.05",
            )

    def load(self) -> Corpus:
        """Check and read the files.

        Raises:
            DataError: whatever is wrong with the files, with file and line.
        """
        train_files = find_files(self.train, "data.train")
        validation_files = find_files(self.validation, "data.validation") if self.validation else []
        _check_different(train_files, validation_files)
        rows = stored_rows(train_files, self.columns)
        if validation_files:
            train, validation = rows, stored_rows(validation_files, self.columns)
        elif len(rows) == 1 and train_files[0].kind == ".txt":
            train, validation = _cut_text(rows[0][TEXT], self.validation_fraction, train_files[0])
        else:
            train, validation = _hold_out(rows, self.validation_fraction, train_files[0])
        digests = [rows_digest(part.with_format("arrow")[:]) for part in (train, validation)]
        if digests[0] == digests[1]:
            raise _same(self.validation)
        return Corpus(
            name=self.name or _stem(train_files[0].path),
            train=train,
            validation=validation,
            fingerprint=fingerprint_of(train=digests[0], validation=digests[1]),
            sources=[
                {"uri": str(source.path), "sha256": source.sha256, "n_bytes": source.n_bytes, "split": split}
                for split, files in (("train", train_files), ("validation", validation_files))
                for source in files
            ],
        )


@dataclass(frozen=True)
class Mirror:
    """A corpus in a folder of local copies; for data sets that are on no hub.

    Args:
        folder: the folder of all local copies; None is answered with what to set.
        train: path or pattern in it.
        validation: path or pattern in it; without it a part of `train` is held out.
        columns: name of a column of the rows -> its name in the files.
        name: short name of the corpus.
    """

    folder: str | None
    train: str
    validation: str | None = None
    columns: dict[str, str] = field(default_factory=lambda: {TEXT: TEXT})
    name: str | None = None

    def load(self) -> Corpus:
        """Check and read the files.

        Raises:
            DataError: there is no mirror, or whatever is wrong with its files.
        """
        if not self.folder:
            raise DataError(
                f"PRELUDE_DATA is not set, and {self.name or self.train} is only in a local mirror",
                f"a folder that holds {self.train}",
                "set PRELUDE_DATA=FOLDER, or choose data=storyworld or a corpus of the hub",
            )
        folder = Path(self.folder).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"PRELUDE_DATA={self.folder} is not a folder", "a folder of local copies", "check the path"
            )
        return Files(
            str(folder / self.train),
            str(folder / self.validation) if self.validation else None,
            columns=self.columns,
            name=self.name,
        ).load()


def check_columns(columns: Mapping[str, str]) -> None:
    """Refuse a mapping without `text`.

    Raises:
        DataError: there is no `text` in it.
    """
    if TEXT not in columns:
        raise DataError(
            f"columns is {dict(columns)}", "an entry 'text'", "set data.columns.text=COLUMN_OF_THE_FILE"
        )


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or path.name


def _check_different(train: list[SourceFile], validation: list[SourceFile]) -> None:
    by_hash = {source.sha256: source.path for source in train}
    for source in validation:
        if source.sha256 in by_hash:
            raise DataError(
                f"validation file {source.path} has the bytes of training file {by_hash[source.sha256]}",
                "text that is not trained on",
                "give another file, or leave data.validation out to hold out a part of data.train",
            )


def _same(validation: str | list[str] | None) -> DataError:
    return DataError(
        f"the validation rows of {validation} are the training rows",
        "text that is not trained on",
        "give another file, or leave data.validation out to hold out a part of data.train",
    )


def _cut_text(text: str, fraction: float, source: SourceFile) -> tuple[Rows, Rows]:
    """Cut the last `fraction` of the characters off, where a line begins, or a word in a single line."""
    target = int(len(text) * (1 - fraction))
    places = (
        text.rfind("\n", 0, target) + 1,
        text.find("\n", target) + 1,
        text.rfind(" ", 0, target) + 1,
        target,
    )
    cut = next(place for place in places if 0 < place < len(text) or place == target)
    if not (text[:cut].strip() and text[cut:].strip()):
        raise _too_little(source)
    return _one_row(text[:cut]), _one_row(text[cut:])


def _one_row(text: str) -> Rows:
    import datasets

    return datasets.Dataset(pa.table({TEXT: pa.array([text], pa.large_string())}))


def _hold_out(rows: Rows, fraction: float, source: SourceFile) -> tuple[Rows, Rows]:
    """Hold out the rows whose text has the smallest hashes: independent of order, equal rows together."""
    hashes = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts(rows)]
    n_held_out = max(1, round(len(hashes) * fraction))
    limit = sorted(hashes)[n_held_out - 1]
    held_out = [number for number, value in enumerate(hashes) if value <= limit]
    kept = [number for number, value in enumerate(hashes) if value > limit]
    if not kept:
        raise _too_little(source)
    return rows.select(kept), rows.select(held_out)


def _too_little(source: SourceFile) -> DataError:
    return DataError(
        f"{source.path} is too small to hold a part out for validation",
        "at least two different rows or lines",
        "set data.validation=PATH",
    )
