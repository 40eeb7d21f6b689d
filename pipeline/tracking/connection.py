"""Query a store directly, outside a run; exceptions of MLflow and the database become a `TrackingError`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import TrackingError
from pipeline.tracking.options import Store, TrackingOptions, resolve_store
from pipeline.tracking.problems import explain
from pipeline.tracking.store import open_client, quieten_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient


def store_of(options: TrackingOptions) -> Store:
    """Return the store that these options choose.

    Raises:
        TrackingError: if tracking is off, or the URI is invalid.
    """
    if not options.enabled:
        raise TrackingError("tracking is off", "an MLflow store", "leave out tracking=off")
    return resolve_store(options.uri, project_folder=Path.cwd(), environ=os.environ)


@contextmanager
def connect(store: Store) -> Iterator["MlflowClient"]:
    """Open a client of an existing store; nothing is created.

    Raises:
        TrackingError: if there is no such store, or it is locked, damaged, unreachable, or was written by
            another version of MLflow.
    """
    if store.sqlite_file is not None and not store.sqlite_file.exists():
        raise TrackingError(
            f"there is no MLflow store at {store.sqlite_file}",
            "a store that a run has written",
            "train a model first, or set tracking.uri",
        )
    quieten_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield open_client(store)
    except (MlflowException, SQLAlchemyError) as error:
        problem = explain(error, store)
        remedy = f"{problem.remedy or 'fix the problem'}, then try again"
        raise TrackingError(problem.text, problem.expected, remedy) from error
