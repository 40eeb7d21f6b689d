"""Find files and folders that a killed process left incomplete."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from datamodules.cache import MANIFEST_FILE
from pipeline.doctor.findings import Finding, held, is_held, is_old
from pipeline.runs.bundle import DONE

#: Patterns of temporary names, used while something is written or replaced.
DRAFTS = (".*.draft", ".*.old", ".*.part", ".*.building", ".*.tmp", "*.tmp", "*.part")


def leftovers(runs_dir: Path, cache_dir: Path) -> Iterator[Finding]:
    """Find all leftovers under both folders, except those in use by a running process."""
    for folder in sorted(path for path in runs_dir.glob("*") if path.is_dir()):
        if not is_held(folder / ".lock"):
            yield from _in_run(folder)
    yield from _in_cache(cache_dir)


def _in_run(folder: Path) -> Iterator[Finding]:
    if not (folder / "run.json").exists() and is_old(folder):
        yield _half_made(folder)
        return
    for path in _drafts(folder):
        if (whole := _replaced(path)) is not None and not whole.exists() and (path / DONE).exists():
            yield Finding(
                what=f"{path} is a bundle whose replacement was interrupted",
                remedy=f"rename it back to {whole.name}",
                fix=partial(_restore, path, whole),
            )
        elif is_old(path):
            yield _draft(path, folder / ".lock")


def _half_made(folder: Path) -> Finding:
    """Report a folder without run.json; the user must decide if it contains more than locks and drafts."""
    kept = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if kept:
        what = f"{folder} has no run.json, so commands ignore it (it contains {', '.join(sorted(kept)[:5])})"
        return Finding(what=what, remedy="delete it, or restore its run.json")
    return Finding(
        what=f"{folder} is an empty run folder",
        remedy="delete it",
        fix=partial(_remove, folder, folder / ".lock"),
    )


def _in_cache(cache_dir: Path) -> Iterator[Finding]:
    rows = cache_dir / "rows"
    for folder in sorted(path for path in rows.glob("*") if path.is_dir()):
        lock = rows / f"{folder.name}.lock"
        if not (folder / MANIFEST_FILE).exists() and not is_held(lock):
            yield Finding(
                what=f"{folder} has no {MANIFEST_FILE}: writing it was interrupted",
                remedy="delete it; it is made again when needed",
                fix=partial(_remove, folder, lock),
            )
    for path in _drafts(cache_dir):
        if is_old(path):
            yield _draft(path, None)
    for lock in sorted(cache_dir.rglob("*.lock")):
        if not lock.with_suffix("").exists() and is_old(lock) and not is_held(lock):
            yield Finding(
                what=f"{lock} is an unused lock", remedy="delete it", fix=partial(_remove, lock, lock)
            )


def _drafts(folder: Path) -> list[Path]:
    found = {path for pattern in DRAFTS for path in folder.rglob(pattern)}
    return sorted(path for path in found if not any(parent in found for parent in path.parents))


def _replaced(path: Path) -> Path | None:
    """Return the original path of a bundle that was moved to `.NAME.old`."""
    if not path.name.endswith(".old"):
        return None
    return path.with_name(path.name.removeprefix(".").removesuffix(".old"))


def _draft(path: Path, lock: Path | None) -> Finding:
    return Finding(what=f"{path} is incomplete", remedy="delete it", fix=partial(_remove, path, lock))


def _restore(path: Path, whole: Path) -> str:
    if not whole.exists():
        path.rename(whole)
    return f"restored {whole}"


def _remove(path: Path, lock: Path | None) -> str:
    if lock is None or not lock.parent.is_dir():
        return _deleted(path)
    if not lock.exists():
        return _deleted(path)
    with held(lock) as mine:
        return _deleted(path) if mine else f"{path} is in use again, so it was left alone"


def _deleted(path: Path) -> str:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return f"deleted {path}"
