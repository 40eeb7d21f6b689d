"""Compare a bundle's record of files, token rows, code and versions with their current state."""

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datamodules.cache import MANIFEST_FILE, TokenRows
from datamodules.errors import CacheError
from pipeline.files import mapping_in, sha256_of
from pipeline.lineage.nodes import State

Found = tuple[State, str]

#: Packages whose versions affect the results.
PACKAGES = ("torch", "lightning", "datasets", "tokenizers", "numpy", "mlflow")
#: The scheme of a URI, such as `hf://` and `storyworld:`.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def check_source(uri: str, sha256: str) -> Found:
    """Check that a local file still has the bytes that were read; other URIs are not fetched."""
    if _SCHEME.match(uri):
        return State.UNCHECKED, "not a local file"
    file = Path(uri).expanduser()
    if not file.is_file():
        return State.GONE, "the file no longer exists"
    try:
        found = sha256_of(file)
    except OSError as error:
        return State.UNCHECKED, f"cannot be read ({error.strerror})"
    return (State.OK, "") if found == sha256 else (State.CHANGED, f"sha256 is now {found[:12]}")


def check_rows(sha256: str, cache_dir: Path) -> Found:
    """Check that cached token rows are those used for training; missing ones are made again when needed."""
    for manifest in (cache_dir / "rows").glob(f"*/{MANIFEST_FILE}"):
        if mapping_in(manifest).get("sha256") == sha256:
            try:
                TokenRows(manifest.parent, verify=True)
            except CacheError as error:
                return State.CHANGED, error.problem
            return State.OK, ""
    return State.UNCHECKED, "no longer in the cache; made again when needed"


def check_code(code: Mapping[str, str]) -> Found:
    """Check that the commit identifies the code, because there were no uncommitted changes."""
    if code.get("git_commit", "none") == "none":
        return State.UNCHECKED, "was not run in a git repository"
    dirty, untracked = code.get("git_dirty"), code.get("git_untracked_code", "0")
    if dirty == "true":
        return State.CHANGED, "with changes that were not committed"
    if dirty != "false":
        return State.UNCHECKED, "git did not report whether everything was committed"
    if untracked != "0":
        files = "a file" if untracked == "1" else f"{untracked} files"
        return State.CHANGED, f"with {files} of code not tracked by git"
    return State.OK, "no uncommitted changes"


def check_versions(code: Mapping[str, str]) -> tuple[State, str, dict[str, str]]:
    """Return the recorded versions, and which of them have changed."""
    recorded = {name: code[name] for name in ("python", *PACKAGES) if name in code}
    now = {name: _installed(name) for name in recorded if name != "python"}
    others = [f"{name} is now {found}" for name, found in now.items() if found != recorded[name]]
    if not recorded:
        return State.UNCHECKED, "", {}
    return (State.CHANGED if others else State.OK), ", ".join(others), recorded


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
