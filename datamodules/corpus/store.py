"""Store the rows of checked files as memory-mapped Arrow files, which are reused for the same content."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute

from datamodules.corpus.as_text import of_one_type
from datamodules.corpus.checked_rows import mixed_types
from datamodules.corpus.columns import Places
from datamodules.corpus.formats import read_tables
from datamodules.corpus.forms import tables_in_one_form
from datamodules.corpus.rows import TEXT, Rows, fingerprint_of
from datamodules.corpus.source_file import SourceFile
from datamodules.errors import DataError
from datamodules.files import draft_of, put_in_place

#: Version of how files are read; increasing it invalidates stored rows.
_READING = 3


def stored_rows(files: list[SourceFile], places: Places) -> Rows:
    """Read files as one table, through an Arrow file in the `datasets` cache that is named by their content.

    The Arrow file is created atomically, after every check has passed.

    Raises:
        DataError: if a file is invalid, there are no rows, or the Arrow file cannot be written.
    """
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / "prelude"
    optional = {} if places.text_only else {"optional": list(places.optional.items())}
    key = fingerprint_of(
        files=[[source.sha256, source.kind, source.packed] for source in files],
        reading=_READING,
        columns=list(places.required.items()),
        **optional,
    )
    path = folder / f"{key}.arrow"
    if not path.exists():
        with _whole_file(path) as temporary:
            _write(temporary, files, places)
    return datasets.Dataset.from_file(str(path))


def _write(path: Path, files: list[SourceFile], places: Places) -> None:
    tables: Iterator[pa.Table] = (table for source in files for table in _tables_with_rows(source, places))
    if not places.text_only:
        tables = iter([_one_table(list(tables), files[0])])
    n_text_bytes = 0
    first = next(tables)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
        for table in itertools.chain([first], tables):
            if places.text_only:
                n_text_bytes += pa.compute.sum(pa.compute.binary_length(table.column(TEXT))).as_py() or 0
            writer.write_table(table)
    if places.text_only and not n_text_bytes:
        raise _nothing_in(files[0])


def _one_table(tables: list[pa.Table], source: SourceFile) -> pa.Table:
    """Concatenate tables in which types (null, int, float) may differ between the parts of a file."""
    for table in tables:
        for name in set(table.column_names) ^ set(tables[0].column_names):
            raise DataError(
                f"column '{name}' is only in some of the files ({source.path} and others)",
                "the same columns in all files",
                "add it to all files, or remove it",
            )
    try:
        return pa.concat_tables(tables_in_one_form(of_one_type(tables)), promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise mixed_types(str(source.path), str(error)) from error


def _tables_with_rows(source: SourceFile, places: Places) -> Iterator[pa.Table]:
    n_rows = 0
    for table in read_tables(source, places):
        n_rows += table.num_rows
        if table.num_rows:
            yield table
    if not n_rows:
        raise _nothing_in(source)


def _nothing_in(source: SourceFile) -> DataError:
    return DataError(
        f"{source.path} contains no text", "at least one row with text", "check how the file was written"
    )


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename it to `path` if the block succeeds."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_of(path) as draft:
            yield Path(draft.name)
            put_in_place(draft, path, durable=False)
    except OSError as error:
        raise DataError(
            f"the data cache {path.parent} cannot be written: {error.strerror or error}",
            "a writable folder with enough free space",
            "free some space, or set HF_HOME to another folder",
        ) from error
