"""Open an MLflow store. MLflow is imported only inside functions, since that takes seconds."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline.tracking.moved import follow_project
from pipeline.tracking.options import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Timeout of one request to a server, in seconds. The writer itself decides when to retry.
_REQUEST_TIMEOUT_S = 10
#: Error codes of MLflow for which a retry is pointless.
_PERMANENT_CODES = frozenset(
    {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
)


def quieten_mlflow() -> None:
    """Configure MLflow for this process; call it before MLflow is imported."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(_REQUEST_TIMEOUT_S)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"
    os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # standard output is for results


def open_client(store: Store) -> "MlflowClient":
    """Return a client of the store; a local database that does not exist yet is created first."""
    quieten_mlflow()
    from mlflow import MlflowClient

    if store.sqlite_file is not None and not store.sqlite_file.exists():
        create_sqlite(store)
    follow_project(store)
    return MlflowClient(tracking_uri=store.uri, registry_uri=store.uri)


def create_sqlite(store: Store) -> None:
    """Create a local database atomically, even if several processes try at the same time.

    MLflow runs 67 migrations (1.4 to 7 s), and two processes that do so at once both crash. Therefore they
    run under a lock in a file with a temporary name, which is then renamed.
    """
    file, artifact_root = store.sqlite_file, store.artifact_root
    if file is None or artifact_root is None:
        raise ValueError(f"{store.public_uri} is not a local database")
    with FileLock(f"{file}.lock"):
        if file.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        building = file.with_name(f".{file.name}.building")
        building.unlink(missing_ok=True)
        address = f"sqlite:///{building}"
        database = SqlAlchemyStore(address, artifact_root.as_uri())  # type: ignore[no-untyped-call]
        database.engine.dispose()
        building.replace(file)


def experiment_id(client: "MlflowClient", name: str, artifact_root: Path | None) -> str:
    """Return the id of an experiment; if there is none, create it and mark it as model training."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = artifact_root.as_uri() if artifact_root else None
        try:
            # MLflow opens an experiment of this kind in its model-training view by default.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise ValueError(
            f"the experiment {name!r} was deleted in MLflow; restore it (mlflow experiments restore), "
            "or set tracking.experiment to another name"
        )
    return str(found.experiment_id)


def is_permanent(error: Exception) -> bool:
    """Return whether repeating the request is pointless."""
    if isinstance(error, FileNotFoundError):
        return True
    return getattr(error, "error_code", None) in _PERMANENT_CODES


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder atomically, with hard links if both are on the same disk."""
    building = target.with_name(f".{target.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, building, copy_function=_link_or_copy)
    building.replace(target)


def _link_or_copy(source: str, target: str) -> Any:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
