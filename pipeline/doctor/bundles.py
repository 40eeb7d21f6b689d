"""Find bundles and token rows whose files differ from those that were saved."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.cache import MANIFEST_FILE, TokenRows
from pipeline.doctor.findings import Finding, is_held
from pipeline.errors import BundleError, CacheError
from pipeline.runs import bundle

#: Files that are read only in a deep check.
LARGE = ("model.safetensors",)


def damaged_bundles(runs_dir: Path, *, deep: bool) -> Iterator[Finding]:
    """Compare every bundle with its hashes; weights are only read with `deep`."""
    for folder in sorted(runs_dir.glob("*/bundles/[!.]*")):
        if not folder.is_dir() or is_held(folder.parent.parent / ".lock"):
            continue
        try:
            bundle.check_files(folder, without=() if deep else LARGE)
            _check_large_files(folder)
        except BundleError as error:
            yield Finding(what=error.problem, remedy=error.remedy)


def damaged_rows(cache_dir: Path, *, deep: bool) -> Iterator[Finding]:
    """Compare token rows with their manifests: their sizes and, with `deep`, every byte."""
    for manifest in sorted((cache_dir / "rows").glob(f"*/{MANIFEST_FILE}")):
        try:
            TokenRows(manifest.parent, verify=deep)
        except CacheError as error:
            yield Finding(what=error.problem, remedy=error.remedy)


def _check_large_files(folder: Path) -> None:
    for name in LARGE:
        if not (folder / name).is_file():
            raise BundleError(
                f"{folder / name} is missing",
                "the file that was saved",
                "train again, or restore the bundle from a copy",
            )
