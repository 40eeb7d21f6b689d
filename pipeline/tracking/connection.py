"""Ask a store directly, outside of any run: what it refuses is answered in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import TrackingError
from pipeline.tracking.options import Store, TrackingOptions, resolve_store
from pipeline.tracking.replay import first_line
from pipeline.tracking.store import open_client, quieten_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient


def store_of(options: TrackingOptions) -> Store:
    """The store that these options choose here.

    Raises:
        TrackingError: tracking is off, or the address can never work.
    """
    if not options.enabled:
        raise TrackingError("tracking is off", "an MLflow store", "leave out tracking=off")
    return resolve_store(options.uri, project_folder=Path.cwd(), environ=os.environ)


@contextmanager
def connect(store: Store) -> Iterator["MlflowClient"]:
    """A client of a store that is there; nothing is created.

    Raises:
        TrackingError: there is no such store, or it is locked, damaged, of another MLflow, or away.
    """
    if store.sqlite_file is not None and not store.sqlite_file.exists():
        raise TrackingError(
            f"there is no MLflow store at {store.sqlite_file}",
            "one that a run has written",
            "train a model first, or set tracking.uri",
        )
    quieten_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield open_client(store)
    except (MlflowException, SQLAlchemyError) as error:
        raise _explained(error, store) from error


def _explained(error: Exception, store: Store) -> TrackingError:
    text, where = first_line(error), store.sqlite_file or store.public_uri
    for sign, (problem, expected, remedy) in _KNOWN.items():
        if sign in text:
            return TrackingError(f"{where} {problem} ({text.split('. ')[0]})", expected, remedy)
    return TrackingError(f"MLflow says: {text}", "a request that it accepts", "correct it, then try again")


#: What an error says -> what that means, what was expected, and what to do.
_KNOWN = {
    "database schema": (
        "was written by another version of MLflow",
        "a store of the installed version",
        "install the versions of constraints.txt (`make setup`), or back it up and run `mlflow db upgrade`",
    ),
    "database is locked": (
        "is locked by another process",
        "a database that can be written",
        "wait until that process has ended, then try again",
    ),
    "readonly database": ("cannot be written", "a database that can be written", "correct its permissions"),
    "unable to open database": ("cannot be opened", "a file that can be read", "correct its permissions"),
    "database or disk is full": ("is on a full disk", "free space", "make room, then try again"),
    "not a database": ("is no database", "an MLflow store", "restore it from a copy, or move it away"),
    "malformed": ("is damaged", "an MLflow store", "restore it from a copy, or move it away"),
    "API request": ("does not answer", "a server that runs", "start it, then try again"),
}
