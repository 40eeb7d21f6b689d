"""A ready MLflow database, made once and copied for each test, and a run's spool written without a writer."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import DatasetRecord, Run, RunCard, TrackingOptions, start_run
from pipeline.tracking.options import Store
from pipeline.tracking.store import create_sqlite, open_client

CORPUS = DatasetRecord(
    name="storyworld",
    digest="0123456789abcdef" * 4,
    source="storyworld://seed=1",
    columns={"text": "string"},
    profile={"rows": 100},
)


@pytest.fixture(scope="session")
def ready_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    create_sqlite(Store(f"sqlite:///{folder}/mlflow.db", folder / "mlartifacts"))
    return folder / "mlflow.db"


@pytest.fixture
def store(ready_database: Path, tmp_path: Path) -> Store:
    shutil.copyfile(ready_database, tmp_path / "mlflow.db")
    return Store(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlartifacts")


@pytest.fixture
def client(store: Store) -> Iterator[Any]:
    client = open_client(store)
    yield client
    client._tracking_client.store._dispose_engine()


@pytest.fixture
def corpus() -> DatasetRecord:
    return CORPUS


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start a run in `tmp_path`; at the end of the test each is ended, with no wait."""
    begun: list[Run] = []

    def start(
        config: dict[str, Any] | None = None,
        *,
        folder: str = "run",
        name: str = "pretrain tiny",
        uri: str | None = None,
        is_report: bool = False,
        **options: Any,
    ) -> Run:
        config = config or {"lr": 0.1}
        card = RunCard(stage="pretrain", name=name, config=config, seed=1, is_report=is_report)
        run = start_run(
            card,
            options=TrackingOptions(uri=uri, **{"end_wait_s": 0.0, "system_metrics": False, **options}),
            run_folder=tmp_path / folder,
            project_folder=tmp_path,
            environ={"PATH": "/usr/bin:/bin"},
        )
        begun.append(run)
        return run

    yield start
    for run in begun:
        run.end("KILLED")
