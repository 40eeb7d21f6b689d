"""Convert paths for recording, so that they stay valid when the project is moved.

The project is the working folder, which is the same for a stage, its writer process and `make sync`.
"""

import os
from pathlib import Path

_SQLITE = "sqlite:///"


def kept_path(path: Path, run_folder: Path) -> str:
    """Return a path as it is recorded: relative to the run's folder if both are in the project."""
    path, run_folder, project = path.absolute(), run_folder.absolute(), Path.cwd()
    if path.is_relative_to(project) and run_folder.is_relative_to(project):
        return os.path.relpath(path, run_folder)
    return str(path)


def found_path(kept: str, run_folder: Path) -> Path:
    """Return the current location of a recorded path."""
    return Path(os.path.normpath(run_folder.absolute() / kept))


def kept_uri(uri: str, run_folder: Path) -> str:
    """Return the URI of a store as it is recorded; that of a local file is converted like a path."""
    return _SQLITE + kept_path(Path(uri[len(_SQLITE) :]), run_folder) if uri.startswith(_SQLITE) else uri


def found_uri(kept: str, run_folder: Path) -> str:
    """Return the current form of a recorded URI."""
    return _SQLITE + str(found_path(kept[len(_SQLITE) :], run_folder)) if kept.startswith(_SQLITE) else kept
