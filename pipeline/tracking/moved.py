"""Update the paths in a store whose project was moved or copied.

MLflow records the place of each file whole, and has no call that changes it; so this is done in its database.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import TrackingError
from pipeline.tracking.options import Store
from pipeline.tracking.problems import explain

#: Tables and columns in which MLflow keeps places of files.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_LOCKED_FOR_S = 30.0


def follow_project(store: Store) -> None:
    """Change the places of a local store's files to those beside it, if it was made elsewhere."""
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
    """Where the files lay when the store was made: MLflow's first experiment has its own in there."""
    try:
        query = "SELECT artifact_location FROM experiments WHERE experiment_id = 0"
        found = database.execute(query).fetchone()
    except sqlite3.DatabaseError:
        return None  # no store of MLflow, or a damaged one: who opens it is told so
    location = str(found[0]) if found else ""
    return location.removesuffix("/0") if location.startswith("file:") and location.endswith("/0") else None


def _is_same(before: str, root: Path) -> bool:
    """Whether both are one folder, perhaps by different ways."""
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
