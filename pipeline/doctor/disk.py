"""Report disk usage, and whether there is enough free space."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.doctor.findings import Finding
from pipeline.tracking.options import Store

#: The free space that a model of size=medium needs with its checkpoints.
LITTLE_BYTES = 2_000_000_000


@dataclass(frozen=True, kw_only=True)
class Use:
    """Disk usage of one category of files."""

    what: str
    n_files: int
    n_bytes: int
    remedy: str = ""


def disk_use(runs_dir: Path, cache_dir: Path, store: Store | None) -> list[Use]:
    """Return the usage by category; a file with several hard links (MLflow links bundles) counts once."""
    database = store.sqlite_file if store else None
    artifacts = store.artifact_root if store else None
    sorts = {
        "bundles": (list(runs_dir.glob("*/bundles")), ""),
        "checkpoints": (list(runs_dir.glob("*/checkpoints")), "only needed to resume runs with RESUME"),
        "spools": (list(runs_dir.glob("*/tracking")), ""),
        "other files of runs": ([runs_dir], ""),
        "token rows": ([cache_dir / "rows"], "made again when needed: make clean"),
        "tokenizers": ([cache_dir / "tokenizers"], "made again when needed: make clean"),
        "other caches": ([cache_dir], "made again when needed: make clean"),
        "MLflow's database": ([database] if database else [], ""),
        "MLflow's files without bundles": ([artifacts] if artifacts else [], ""),
    }
    seen: set[tuple[int, int]] = set()
    return [_measure(what, folders, remedy, seen) for what, (folders, remedy) in sorts.items()]


def _measure(what: str, folders: list[Path], remedy: str, seen: set[tuple[int, int]]) -> Use:
    n_files = n_bytes = 0
    for file in (file for folder in folders for file in _files(folder)):
        try:
            found = file.lstat()
        except OSError:  # deleted meanwhile
            continue
        if (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            n_files += 1
            n_bytes += found.st_size
    return Use(what=what, n_files=n_files, n_bytes=n_bytes, remedy=remedy)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names)


def _is_writable(folder: Path) -> bool:
    read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and not read_only


def disk_problems(*folders: Path) -> Iterator[Finding]:
    """Find folders that are not writable, and disks that are nearly full."""
    told: set[int] = set()
    for folder in folders:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not _is_writable(there):
            yield Finding(
                what=f"{folder} is not writable", remedy="correct its permissions, or choose another folder"
            )
        free, disk = shutil.disk_usage(there).free, there.stat().st_dev
        if free < LITTLE_BYTES and disk not in told:
            told.add(disk)
            yield Finding(
                what=f"only {free / 1e9:.1f} GB are free on the disk of {folder}",
                remedy="free some space: the table above shows what uses it",
            )
