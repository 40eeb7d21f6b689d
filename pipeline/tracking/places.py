"""Record paths so that they are found again after the project was moved.

The project is the working folder, of the stage, of its writer and of `make sync` alike.
"""

import os
from pathlib import Path

_SQLITE = "sqlite:///"


def kept_path(path: Path, run_folder: Path) -> str:
    """A path as it is recorded: relative to the run's folder, where both lie in the project."""
    path, run_folder, project = path.absolute(), run_folder.absolute(), Path.cwd()
    if path.is_relative_to(project) and run_folder.is_relative_to(project):
        return os.path.relpath(path, run_folder)
    return str(path)


def found_path(kept: str, run_folder: Path) -> Path:
    """The path that was recorded, where it is now."""
    return Path(os.path.normpath(run_folder.absolute() / kept))


def kept_uri(uri: str, run_folder: Path) -> str:
    """A store's address as it is recorded; that of a file is a path."""
    return _SQLITE + kept_path(Path(uri[len(_SQLITE) :]), run_folder) if uri.startswith(_SQLITE) else uri


def found_uri(kept: str, run_folder: Path) -> str:
    """The address that was recorded, as it is now."""
    return _SQLITE + str(found_path(kept[len(_SQLITE) :], run_folder)) if kept.startswith(_SQLITE) else kept
