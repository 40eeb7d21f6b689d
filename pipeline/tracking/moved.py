"""Update the paths in a store whose project was moved or copied.

MLflow records absolute paths and has no API to change them, so they are changed in its database.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import TrackingError
from pipeline.tracking.options import Store
from pipeline.tracking.problems import explain

#: Tables and columns in which MLflow stores paths of files.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_LOCKED_FOR_S = 30.0


def follow_project(store: Store) -> None:
    """Make the paths in a local store point to the files next to it, if it was created elsewhere."""
    file, root = store.sqlite_file, store.artifact_root
    if file is None or root is None or not file.exists():
        return
    with closing(sqlite3.connect(file, timeout=_LOCKED_FOR_S)) as database:
        before = _made_for(database)
        if before is None or _is_same(before, root):
            return
        try:
            with database:
                for table, column in _PLACES:
                    _replace(database, table, column, before, root.as_uri())
        except sqlite3.DatabaseError as error:
            problem = explain(error, store)
            remedy = f"{problem.remedy or 'fix the problem'}, then try again"
            raise TrackingError(problem.text, problem.expected, remedy) from error


def _made_for(database: sqlite3.Connection) -> str | None:
    """Return the URI of the artifact folder when the store was created, from MLflow's default experiment."""
    try:
        query = "SELECT artifact_location FROM experiments WHERE experiment_id = 0"
        found = database.execute(query).fetchone()
    except sqlite3.DatabaseError:
        return None  # not an MLflow store, or a damaged one, which is reported when it is opened
    location = str(found[0]) if found else ""
    return location.removesuffix("/0") if location.startswith("file:") and location.endswith("/0") else None


def _is_same(before: str, root: Path) -> bool:
    """Return whether both are the same folder, perhaps by different paths."""
    folder = Path(unquote(urlsplit(before).path))
    if before == root.as_uri() or folder.name != root.name:
        return True
    return folder.exists() and root.exists() and os.path.samefile(folder, root)


def _replace(database: sqlite3.Connection, table: str, column: str, before: str, now: str) -> None:
    known = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
    if column in known:  # an older MLflow has fewer
        database.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (now, len(before) + 1, len(before) + 1, f"{before}/"),
        )
        database.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (now, before))
