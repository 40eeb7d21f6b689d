"""Find the data files in a folder, which must all be of one kind."""

import re
from collections import Counter
from pathlib import Path

from datamodules.errors import DataError

KINDS = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".conll", ".parquet")
KINDS_TEXT = f"a file ending in {', '.join(KINDS)}, or one of these and .gz (not .parquet)"

_HELD_OUT = re.compile(r"(test|dev|val|valid|validation|eval)(?![a-z])", re.IGNORECASE)
_NAMED = 3


def kind_of(path: Path) -> tuple[str | None, bool]:
    """Return the kind of a file by its name (one of `KINDS`, or None), and whether it is gzip-compressed."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = next(iter(suffixes[-2:-1] if packed else suffixes[-1:]), "")
    return (kind if kind in KINDS and not (packed and kind == ".parquet") else None), packed


def files_in(folder: Path, key: str) -> list[Path]:
    """Return all data files in a folder and its subfolders, in order; hidden and other files are left out.

    Raises:
        DataError: if there are none, they are of several kinds, or the names of some mark held-out rows.
    """
    below = sorted(path for path in folder.rglob("*") if path.is_file() and _is_shown(path, folder))
    kinds = Counter(kind for path in below if (kind := kind_of(path)[0]) is not None)
    if not kinds:
        raise DataError(f"{key}={folder} is a folder without data files", KINDS_TEXT, "check the path")
    if len(kinds) > 1:
        usual = kinds.most_common(1)[0][0]
        found = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
        raise DataError(
            f"{key}={folder} is a folder with several kinds of files: {found}",
            "files of one kind",
            f"set {key}='{folder}/**/*{usual}'",
        )
    files = [path for path in below if kind_of(path)[0] is not None]
    held_out = [path for path in files if any(map(_HELD_OUT.match, path.relative_to(folder).parts))]
    if 0 < len(held_out) < len(files):
        others = [str(path) for path in files if path not in held_out]
        name = held_out[0].relative_to(folder)
        raise DataError(
            f"{key}={folder} is a folder with {name}, which seems to contain held-out rows",
            "a folder with the rows of one split",
            f"set {key}={others[0]}" if len(others) == 1 else f"set {key}=[{','.join(others[:_NAMED])}]",
        )
    return files


def _is_shown(path: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)
