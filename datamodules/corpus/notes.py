"""Notes for the user on how files were read."""

from collections.abc import Collection, Mapping
from pathlib import Path

from datamodules.corpus.separated import SEPARATORS, header_of
from datamodules.corpus.source_file import SourceFile


def notes_on(
    patterns: Mapping[str, str | list[str]], files: Mapping[str, list[SourceFile]], wanted: Collection[str]
) -> list[str]:
    """Return notes on the number of files in each folder, and on separators of .csv files other than commas.

    Args:
        patterns: the requested paths and patterns, by split.
        files: the files that were found, by split.
        wanted: the columns that are read.
    """
    notes = []
    for split, some in patterns.items():
        for pattern in [some] if isinstance(some, str) else some:
            folder = Path(pattern).expanduser()
            if folder.is_dir():
                n_files = sum(source.path.is_relative_to(folder) for source in files[split])
                notes.append(f"{n_files:,} {'file' if n_files == 1 else 'files'} of the folder {pattern}")
    separated: dict[str, list[Path]] = {}
    for source in (source for some in files.values() for source in some if source.kind == ".csv"):
        separated.setdefault(header_of(source, wanted)[0], []).append(source.path)
    for separator, (first, *more) in separated.items():
        if separator != ",":
            others = f" and {len(more):,} more are" if more else " is"
            notes.append(f"{first}{others} separated by {SEPARATORS[separator]}")
    return notes
