"""Which versions of registered models a bundle is; where the store is a local file, without MLflow."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.registry.versions import DIGEST, versions_of
from pipeline.tracking.connection import connect
from pipeline.tracking.options import Store
from pipeline.tracking.problems import explain

#: What MLflow leaves of a version that was deleted.
_DELETED = "Deleted_Internal"
_QUERY = """
    select tags.name, tags.version, aliases.alias from model_version_tags as tags
    join model_versions as versions on versions.name = tags.name and versions.version = tags.version
    left join registered_model_aliases as aliases
        on aliases.name = tags.name and aliases.version = tags.version
    where tags.key = ? and tags.value = ? and versions.current_stage != ?
    order by tags.name, tags.version, aliases.alias
"""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A version of a registered model."""

    name: str
    version: str
    aliases: Sequence[str]


def registrations_of(store: Store, digest: str) -> list[Registration]:
    """The versions that a bundle of this digest is.

    Raises:
        TrackingError: there is no such store, or it cannot be read.
    """
    if store.sqlite_file is not None and store.sqlite_file.exists():
        return _read(store, store.sqlite_file, digest)
    with connect(store) as client:
        found = versions_of(client, digest)
    return [Registration(name=one.name, version=one.number, aliases=one.aliases) for one in found]


def _read(store: Store, file: Path, digest: str) -> list[Registration]:
    """From the database itself: importing MLflow takes longer than all the rest of a lineage."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(_QUERY, (DIGEST, digest, _DELETED)).fetchall()
    except sqlite3.Error as error:
        problem = explain(error, store)
        raise TrackingError(
            problem.text, problem.expected, f"{problem.remedy or 'correct it'}, then try again"
        ) from error
    aliases: dict[tuple[str, str], list[str]] = {}
    for name, version, alias in rows:
        aliases.setdefault((name, str(version)), []).extend([alias] if alias else [])
    return [
        Registration(name=name, version=version, aliases=found) for (name, version), found in aliases.items()
    ]
