"""Corpora of the Hugging Face hub: whole or streamed, or from a local mirror of the same files."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from datamodules.corpus.files import Mirror, check_columns
from datamodules.corpus.formats import missing_column, no_text
from datamodules.corpus.rows import TEXT, Corpus, Rows, fingerprint_of, rows_digest
from datamodules.errors import DataError

_PROBE_TIMEOUT_S = 10
_ELSEWHERE = (
    "set PRELUDE_DATA to a folder of copies, take data=files data.train=PATH, or set HF_ENDPOINT to a mirror"
)


@dataclass(frozen=True)
class Hub:
    """A data set of the hub, or a folder on disk laid out as one. Data sets that are scripts are refused.

    Args:
        path: name on the hub, as `roneneldan/TinyStories`, or a folder.
        config_name: the data set's configuration, where it has several.
        revision: branch, tag or commit; by default the newest. Whatever it is, one commit is read.
        train_split: name of the split to train on.
        validation_split: name of the split to validate on; None: the first `n_held_out_rows` rows of
            `train_split` are held out.
        columns: name of a column of the rows -> its name in the data set. `text` must be there.
        streaming: read rows as they are needed, in order, and keep no copy: for what is larger than disk.
        max_train_rows: rows of the training split to use at most.
        n_held_out_rows: see `validation_split`.
        document_start: pattern of a row that begins a document; the rows up to the next such row are joined.
            For data sets whose rows are lines (wikitext).
        mirror: folder of local copies; where it is given the hub is not asked.
        mirror_train: path or pattern of the training files in the mirror.
        mirror_validation: the same for validation; None: a part of `mirror_train` is held out.
    """

    path: str
    config_name: str | None = None
    revision: str | None = None
    train_split: str = "train"
    validation_split: str | None = "validation"
    columns: dict[str, str] = field(default_factory=lambda: {TEXT: TEXT})
    streaming: bool = False
    max_train_rows: int | None = None
    n_held_out_rows: int = 1000
    document_start: str | None = None
    mirror: str | None = None
    mirror_train: str | None = None
    mirror_validation: str | None = None

    def __post_init__(self) -> None:
        check_columns(self.columns)
        for name in ("max_train_rows", "n_held_out_rows"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise DataError(
                    f"data.{name} is {value}", "at least 1", f"set data.{name}=1000 or leave it out"
                )

    def load(self) -> Corpus:
        """Read the mirror where there is one, else the hub.

        Raises:
            DataError: no such data set, configuration, split or column; no network; rows without text.
        """
        name = self.path.rstrip("/").rsplit("/", 1)[-1].lower()
        if self.mirror:
            if self.mirror_train is None:
                raise DataError(
                    f"the local mirror has no place for {self.path}",
                    "data.mirror_train",
                    "unset PRELUDE_DATA to use the hub",
                )
            return Mirror(self.mirror, self.mirror_train, self.mirror_validation, self.columns, name).load()
        commit = _folder_digest(Path(self.path)) if Path(self.path).is_dir() else self._resolved_commit()
        return self._streamed(name, commit) if self.streaming else self._whole(name, commit)

    def _whole(self, name: str, commit: str | None) -> Corpus:
        train = self._split(self.train_split, commit)
        if self.validation_split is None:
            self._check_enough(len(train))
            validation = train.select(range(self.n_held_out_rows))
            train = train.select(range(self.n_held_out_rows, len(train)))
        else:
            validation = self._split(self.validation_split, commit)
        if self.max_train_rows is not None:
            train = train.select(range(min(self.max_train_rows, len(train))))
        train, validation = (self._documents(part) for part in (train, validation))
        tables = [part.with_format("arrow")[:] for part in (train, validation)]
        for table, split in zip(tables, (self.train_split, self.validation_split), strict=True):
            _check_table(table, f"{self.path}, split {split}")
        digests = [rows_digest(table) for table in tables]
        sources = [
            self._source(split, commit, {"sha256": digest, "n_bytes": table.nbytes})
            for split, digest, table in zip(("train", "validation"), digests, tables, strict=True)
        ]
        return Corpus(
            name, train, validation, fingerprint_of(train=digests[0], validation=digests[1]), sources
        )

    def _streamed(self, name: str, commit: str | None) -> Corpus:
        import datasets

        train = self._split(self.train_split, commit)
        if self.validation_split is None:
            held_out = self._rows(train.take(self.n_held_out_rows))
            self._check_enough(
                len(held_out) + (next(iter(train.skip(self.n_held_out_rows)), None) is not None)
            )
            train = train.skip(self.n_held_out_rows)
        else:
            held_out = self._rows(self._split(self.validation_split, commit))
        if self.max_train_rows is not None:
            train = train.take(self.max_train_rows)
        checked = train.map(_checked_row, with_indices=True, fn_kwargs={"where": self.path})
        validation = self._documents(datasets.Dataset.from_list(held_out))
        _check_table(validation.with_format("arrow")[:], f"{self.path}, split {self.validation_split}")
        fingerprint = fingerprint_of(
            commit=commit,
            path=None if Path(self.path).is_dir() else self.path,
            config_name=self.config_name,
            splits=[self.train_split, self.validation_split],
            columns=self.columns,
            rows=[self.max_train_rows, self.n_held_out_rows],
            document_start=self.document_start,
        )
        source = self._source("train", commit, {"sha256": fingerprint})
        return Corpus(name, self._documents(checked), validation, fingerprint, [source])

    def _rows(self, stream: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            rows = list(stream)
        except Exception as error:  # see _split
            raise _failed(self.path, error) from error
        return [_checked_row(row, number, where=self.path) for number, row in enumerate(rows)]

    def _check_enough(self, n_rows: int) -> None:
        if n_rows <= self.n_held_out_rows:
            raise DataError(
                f"{self.path}: split {self.train_split} has only the {self.n_held_out_rows} rows to hold out",
                "more rows",
                "set data.n_held_out_rows to fewer",
            )

    def _source(self, split: str, commit: str | None, more: dict[str, str | int]) -> dict[str, str | int]:
        at = f"@{commit}" if commit else ""
        name = (self.train_split if split == "train" else self.validation_split) or self.train_split
        return {
            "uri": f"hf://datasets/{self.path}{at}/{self.config_name or 'default'}/{name}",
            "split": split,
            **more,
        }

    def _resolved_commit(self) -> str | None:
        """Ask the hub once, and quickly, whether the data set is there, and which commit is meant."""
        import huggingface_hub
        from huggingface_hub import constants, errors

        if constants.is_offline_mode():
            return self.revision
        try:
            info = huggingface_hub.HfApi().dataset_info(
                self.path, revision=self.revision, timeout=_PROBE_TIMEOUT_S
            )
        except errors.GatedRepoError as error:
            raise DataError(
                f"the hub data set {self.path} asks for an agreement first",
                "a data set that can be read",
                "agree on its page and run: hf auth login",
            ) from error
        except errors.RevisionNotFoundError as error:
            raise DataError(
                f"the hub data set {self.path} has no revision {self.revision}",
                "a branch, tag or commit of it",
                "check data.revision",
            ) from error
        except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
            raise DataError(
                f"there is no data set {self.path} on the hub, and no such folder",
                "OWNER/NAME of a public data set",
                "check the name, or run hf auth login if it is private",
            ) from error
        except (
            Exception
        ) as error:  # the transport's own errors: refused, no route, no name, timeout, bad gateway
            raise _unreachable(self.path, error) from error
        return info.sha

    def _split(self, split: str, commit: str | None) -> Rows:
        """Load one split with the mapped columns; a `Dataset`, or an `IterableDataset` when streaming."""
        import datasets

        local = Path(self.path).is_dir()
        try:
            rows = datasets.load_dataset(
                self.path,
                self.config_name,
                split=split,
                revision=None if local else commit,
                streaming=self.streaming,
            )
            present = rows.column_names or list(next(iter(rows), {}))
        except Exception as error:  # whatever a download or a foreign file can raise; the cause stays chained
            raise _failed(self.path, error) from error
        for wanted in self.columns.values():
            if wanted not in present:
                raise missing_column(f"{self.path}, split {split}", wanted, present)
        rows = rows.select_columns(list(self.columns.values()))
        return rows.rename_columns({theirs: ours for ours, theirs in self.columns.items() if ours != theirs})

    def _documents(self, rows: Rows) -> Rows:
        """Join lines to documents, where the data set needs it."""
        import datasets

        if self.document_start is None:
            return rows
        kind = datasets.Dataset if isinstance(rows, datasets.Dataset) else datasets.IterableDataset
        return kind.from_generator(joined, gen_kwargs={"rows": rows, "start": self.document_start})


def joined(rows: Iterable[Mapping[str, Any]], start: str) -> Iterator[dict[str, str]]:
    """Join the rows from one that matches `start` up to the next; other columns than `text` are dropped."""
    pattern = re.compile(start)
    lines: list[str] = []
    for row in rows:
        if pattern.match(row[TEXT]) and "".join(lines).strip():
            yield {TEXT: "".join(lines)}
            lines = []
        lines.append(row[TEXT])
    if "".join(lines).strip():
        yield {TEXT: "".join(lines)}


def _checked_row(row: dict[str, Any], number: int, where: str) -> dict[str, Any]:
    text = row[TEXT]
    if not isinstance(text, str):
        found = "null" if text is None else f"values of type {type(text).__name__}"
        raise no_text(f"{where}, row {number + 1}", TEXT, found)
    return row


def _check_table(table: pa.Table, where: str) -> None:
    column = table.column(TEXT)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise no_text(where, TEXT, f"values of type {column.type}")
    if column.null_count:
        raise no_text(f"{where}, row {column.is_null().index(True).as_py() + 1}", TEXT, "null")
    if not pa.compute.sum(pa.compute.binary_length(column)).as_py():
        raise DataError(f"{where} holds no text", "at least one row with text", "choose another split")


def _folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append([str(path.relative_to(folder)), hashlib.file_digest(file, "sha256").hexdigest()])
    return fingerprint_of(files=digests)


def _one_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _unreachable(path: str, error: Exception) -> DataError:
    return DataError(
        f"the hub cannot be reached for {path}: {_one_line(error)}",
        "a network connection to the hub (HF_HUB_OFFLINE=1 reads what was downloaded before)",
        _ELSEWHERE,
    )


def _failed(path: str, error: Exception) -> DataError:
    cause = error.__cause__ or error
    return DataError(
        f"the data set {path} cannot be read: {_one_line(cause)}",
        "plain data files that can be reached",
        _ELSEWHERE,
    )
