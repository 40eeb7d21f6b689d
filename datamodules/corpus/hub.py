"""Corpora on the Hugging Face Hub: downloaded or streamed, or from a local mirror of the same files."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.corpus.columns import TEXT_ONLY, Columns, Places, has
from datamodules.corpus.files import Mirror, Pattern, check_same_types
from datamodules.corpus.held_out import hold_out
from datamodules.corpus.hub_rows import check_table, checked_row, joined, picked, picked_stream
from datamodules.corpus.rows import TEXT, Corpus, Rows, fingerprint_of, rows_digest
from datamodules.errors import DataError
from datamodules.files import sha256_of
from datamodules.source import Source

_PROBE_TIMEOUT_S = 10
_ELSEWHERE = (
    "set PRELUDE_DATA to a folder of copies, take data=files data.train=PATH, or set HF_ENDPOINT to a mirror"
)


@dataclass(frozen=True)
class Hub(Source):
    """A data set on the Hub, or a folder on disk with the same layout. Data sets with scripts are rejected.

    Args:
        path: name on the Hub, such as `roneneldan/TinyStories`, or a folder.
        config_name: the configuration of the data set, if it has several.
        revision: branch, tag or commit; by default the newest. In any case, a single commit is read.
        train_split: name of the split to train on.
        validation_split: name of the split to validate on; None: the first `n_held_out_rows` rows of
            `train_split` are held out, or those selected by `validation_fraction`.
        columns: name of a column of the rows -> its name in the data set, or a path into objects, such as
            `translation.en`. A column that is not named here is read under its own name. Classes are read as
            names if the data set has names.
        streaming: read rows in order when they are needed, without keeping a copy, for data larger than the
            disk.
        max_train_rows: maximum number of training rows to use.
        n_held_out_rows: see `validation_split`.
        document_start: regular expression that matches the first row of a document; the rows up to the next
            such row are joined. For data sets whose rows are lines (wikitext).
        mirror: folder of local copies; if given, the Hub is not used.
        mirror_train: path or glob pattern of the training files in the mirror.
        mirror_validation: the same for validation; None: a part of `mirror_train` is held out.
        mirror_columns: like `columns`, if the copies have other names; None: they have the same.
        validation_fraction: without a validation split, hold out this fraction of the training rows by hash,
            as `Files` does, for data sets whose rows are sorted by label.
        test_split: name of the test split, which is used only once, at the end; None: there is none.
        mirror_test: the same in the mirror.
    """

    path: str
    config_name: str | None = None
    revision: str | None = None
    train_split: str = "train"
    validation_split: str | None = "validation"
    columns: dict[str, str] = field(default_factory=dict)
    streaming: bool = False
    max_train_rows: int | None = None
    n_held_out_rows: int = 1000
    document_start: str | None = None
    mirror: str | None = None
    mirror_train: Pattern | None = None
    mirror_validation: Pattern | None = None
    mirror_columns: dict[str, str] | None = None
    validation_fraction: float | None = None
    test_split: str | None = None
    mirror_test: Pattern | None = None

    def __post_init__(self) -> None:
        for name in ("max_train_rows", "n_held_out_rows"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise DataError(
                    f"data.{name} is {value}", "at least 1", f"set data.{name}=1000 or leave it out"
                )

    def load(self, columns: Columns = TEXT_ONLY) -> Corpus:
        """Read the mirror if there is one, or else the Hub.

        Raises:
            DataError: if there is no such data set, configuration, split or column, no network, or a row
                without text.
        """
        name = self.path.rstrip("/").rsplit("/", 1)[-1].lower()
        if self.mirror:
            return self._mirror(name).load(columns)
        commit = self._commit()
        return self._streamed(name, commit, columns) if self.streaming else self._whole(name, commit, columns)

    def identity(self) -> str:
        """Return a hash that identifies the rows as far as possible without reading them.

        It covers the bytes of the mirror's files or of the folder, or else the current commit on the Hub or,
        offline, the requested revision.

        Raises:
            DataError: if there is no such data set, mirror or network.
        """
        if self.mirror:
            return self._mirror("mirror").identity()
        return fingerprint_of(commit=self._commit())

    def snapshot(self) -> str | None:
        """Return a hash of the names and bytes of the mirror's files; None without a mirror.

        Raises:
            DataError: if a file of the mirror is missing or cannot be read.
        """
        return self._mirror("mirror").snapshot() if self.mirror else None

    def _commit(self) -> str | None:
        """Return the commit on the Hub, or a digest of the folder."""
        return _folder_digest(Path(self.path)) if Path(self.path).is_dir() else self._resolved_commit()

    def _mirror(self, name: str) -> Mirror:
        if self.mirror_train is None:
            raise DataError(
                f"{self.path} is not in the local mirror",
                "data.mirror_train",
                "unset PRELUDE_DATA to use the Hub",
            )
        return Mirror(
            self.mirror,
            self.mirror_train,
            self.mirror_validation,
            columns=self.columns if self.mirror_columns is None else self.mirror_columns,
            name=name,
            validation_fraction=self.validation_fraction or 0.05,
            test=self.mirror_test,
        )

    def _whole(self, name: str, commit: str | None, columns: Columns) -> Corpus:
        places = Places.of(columns, self.columns)
        train = self._split(self.train_split, commit, places)
        if self.validation_split is not None:
            validation = self._split(self.validation_split, commit, places)
        elif self.validation_fraction is not None:
            train, validation = hold_out(train, columns.required[0], self.validation_fraction, self.path)
        else:
            self._check_enough(len(train))
            validation = train.select(range(self.n_held_out_rows))
            train = train.select(range(self.n_held_out_rows, len(train)))
        if self.max_train_rows is not None:
            train = train.select(range(min(self.max_train_rows, len(train))))
        parts = {"train": train, "validation": validation}
        if self.test_split is not None:
            parts["test"] = self._split(self.test_split, commit, places)
        parts = {split: self._documents(rows) for split, rows in parts.items()}
        tables = {split: rows.with_format("arrow")[:] for split, rows in parts.items()}
        for split, table in tables.items():
            check_table(table, f"{self.path}, split {self._name_of(split)}", places)
        check_same_types(parts)
        digests = {split: rows_digest(table) for split, table in tables.items()}
        sources = [
            self._source(split, commit, {"sha256": digest, "n_bytes": tables[split].nbytes})
            for split, digest in digests.items()
        ]
        return Corpus(name=name, fingerprint=fingerprint_of(**digests), sources=sources, **parts)

    def _streamed(self, name: str, commit: str | None, columns: Columns) -> Corpus:
        import datasets

        places = Places.of(columns, self.columns)
        train = self._split(self.train_split, commit, places)
        if self.validation_split is None:
            held_out = self._rows(train.take(self.n_held_out_rows))
            self._check_enough(
                len(held_out) + (next(iter(train.skip(self.n_held_out_rows)), None) is not None)
            )
            train = train.skip(self.n_held_out_rows)
        else:
            held_out = self._rows(self._split(self.validation_split, commit, places))
        if self.max_train_rows is not None:
            train = train.take(self.max_train_rows)
        checked = train.map(checked_row, with_indices=True, fn_kwargs={"where": self.path})
        validation = self._documents(datasets.Dataset.from_list(held_out))
        check_table(validation.with_format("arrow")[:], f"{self.path}, split {self.validation_split}", places)
        test = None
        if self.test_split is not None:
            test = datasets.Dataset.from_list(self._rows(self._split(self.test_split, commit, places)))
        fingerprint = self._stream_fingerprint(commit, columns)
        source = self._source("train", commit, {"sha256": fingerprint})
        return Corpus(name, self._documents(checked), validation, fingerprint, [source], test)

    def _stream_fingerprint(self, commit: str | None, columns: Columns) -> str:
        more: dict[str, Any] = {} if columns == TEXT_ONLY else {"read": [columns.required, columns.optional]}
        if self.test_split is not None:
            more["test"] = self.test_split
        return fingerprint_of(
            commit=commit,
            path=None if Path(self.path).is_dir() else self.path,
            config_name=self.config_name,
            splits=[self.train_split, self.validation_split],
            columns=self.columns or {TEXT: TEXT},
            rows=[self.max_train_rows, self.n_held_out_rows],
            document_start=self.document_start,
            **more,
        )

    def _rows(self, stream: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            rows = list(stream)
        except DataError:
            raise
        except Exception as error:  # see _split
            raise _failed(self.path, error) from error
        return [checked_row(row, number, where=self.path) for number, row in enumerate(rows)]

    def _check_enough(self, n_rows: int) -> None:
        if n_rows <= self.n_held_out_rows:
            raise DataError(
                f"{self.path}: split {self.train_split} has only the {self.n_held_out_rows} rows to hold out",
                "more rows",
                "set data.n_held_out_rows to fewer",
            )

    def _source(self, split: str, commit: str | None, more: dict[str, str | int]) -> dict[str, str | int]:
        at = f"@{commit}" if commit else ""
        return {
            "uri": f"hf://datasets/{self.path}{at}/{self.config_name or 'default'}/{self._name_of(split)}",
            "split": split,
            **more,
        }

    def _name_of(self, split: str) -> str:
        names = {"validation": self.validation_split, "test": self.test_split}
        return names.get(split) or self.train_split

    def _resolved_commit(self) -> str | None:
        """Query the Hub once, with a short timeout, for the commit of the data set."""
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
                f"the data set {self.path} on the Hub requires accepting its terms first",
                "a data set that can be read",
                "accept the terms on its page, and run `hf auth login`",
            ) from error
        except errors.RevisionNotFoundError as error:
            raise DataError(
                f"the data set {self.path} on the Hub has no revision {self.revision}",
                "a branch, tag or commit of it",
                "check data.revision",
            ) from error
        except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
            raise DataError(
                f"there is no data set {self.path} on the Hub, and no such folder",
                "OWNER/NAME of a public data set",
                "check the name, or run `hf auth login` if it is private",
            ) from error
        except Exception as error:  # errors of the transport
            raise _unreachable(self.path, error) from error
        return info.sha

    def _split(self, split: str, commit: str | None, places: Places) -> Rows:
        """Load the requested columns of a split, as a `Dataset` or, when streaming, an `IterableDataset`."""
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
            names = rows.column_names or []
            first: dict[str, Any] = {} if set(places.paths) <= set(names) else next(iter(rows), {})
            names = names or list(first)
        except Exception as error:  # a download or an unknown file may raise anything
            raise _failed(self.path, error) from error
        where = f"{self.path}, split {split}"
        there = [path for path in places.paths if path in names or has(first, path)]
        present = places.present(where, there, names)
        if self.streaming:
            return picked_stream(rows, present)
        return picked(rows, present, where)

    def _documents(self, rows: Rows) -> Rows:
        """Join lines to documents, if `document_start` is set."""
        import datasets

        if self.document_start is None:
            return rows
        kind = datasets.Dataset if isinstance(rows, datasets.Dataset) else datasets.IterableDataset
        return kind.from_generator(joined, gen_kwargs={"rows": rows, "start": self.document_start})


def _folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return fingerprint_of(files=[[str(path.relative_to(folder)), sha256_of(path)] for path in files])


def _one_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _unreachable(path: str, error: Exception) -> DataError:
    return DataError(
        f"the Hub cannot be reached for {path}: {_one_line(error)}",
        "a network connection to the Hub (HF_HUB_OFFLINE=1 uses earlier downloads)",
        _ELSEWHERE,
    )


def _failed(path: str, error: Exception) -> DataError:
    cause = error.__cause__ or error
    return DataError(
        f"the data set {path} cannot be read: {_one_line(cause)}",
        "plain data files that can be reached",
        _ELSEWHERE,
    )
