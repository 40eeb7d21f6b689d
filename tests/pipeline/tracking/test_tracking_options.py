from pathlib import Path

import pytest

from pipeline.errors import ConfigError, TrackingError
from pipeline.tracking import TrackingOptions
from pipeline.tracking.options import resolve_store


def test_the_default_store_is_a_file_of_the_project_with_absolute_paths(tmp_path: Path) -> None:
    store = resolve_store(None, project_folder=tmp_path, environ={})
    assert store.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert store.artifact_root == tmp_path / "mlartifacts"


def test_the_environment_names_the_store_unless_the_configuration_does(tmp_path: Path) -> None:
    environ = {"MLFLOW_TRACKING_URI": "http://host:5000/"}
    assert resolve_store(None, project_folder=tmp_path, environ=environ).uri == "http://host:5000"
    chosen = resolve_store("sqlite:///other.db", project_folder=tmp_path, environ=environ)
    assert chosen.uri == f"sqlite:///{tmp_path}/other.db"


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///tmp/mlruns", "/tmp/mlruns"])
def test_a_plain_folder_is_answered_with_the_way_to_migrate_it(uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"(?s)plain folder.*migrate-filestore"):
        resolve_store(uri, project_folder=tmp_path, environ={})


@pytest.mark.parametrize("uri", ["ftp://host", "sqlite:///", "sqlite://x", "sqlite:///no/such/folder/x.db"])
def test_an_impossible_store_is_refused_before_anything_runs(uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="store"):
        resolve_store(uri, project_folder=tmp_path, environ={})


def test_the_public_address_has_no_password(tmp_path: Path) -> None:
    store = resolve_store("https://ann:pw@host:5000", project_folder=tmp_path, environ={})
    assert store.public_uri == "https://host:5000"


@pytest.mark.parametrize("uri", ["postgresql://u:pw@host/db", "postgresql+psycopg2://u:pw@host/db"])
def test_a_postgresql_store_takes_the_driver_that_is_there_and_keeps_files_beside_the_project(
    uri: str, tmp_path: Path
) -> None:
    pytest.importorskip("psycopg2")
    store = resolve_store(uri, project_folder=tmp_path, environ={})
    assert store.uri.startswith(("postgresql+psycopg2://u:pw@host/db", "postgresql://u:pw@host/db"))
    assert store.artifact_root == tmp_path / "mlartifacts"
    assert "pw" not in store.public_uri


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("mssql+pymssql://u:pw@host/db", "(?s)needs the driver pymssql.*pip install pymssql"),
        ("postgresql+nothing://u:pw@host/db", "not a database URI"),
        ("postgresql://u:pw@host:port/db", "not a database URI"),
    ],
)
def test_a_database_that_nothing_here_can_talk_to_stops_the_run_before_it_begins(
    uri: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(TrackingError, match=says) as raised:
        resolve_store(uri, project_folder=tmp_path, environ={})
    assert "pw@" not in str(raised.value)


def test_options_refuse_an_empty_experiment_and_an_endless_wait() -> None:
    with pytest.raises(ConfigError, match=r"tracking\.experiment"):
        TrackingOptions(experiment=" ")
    with pytest.raises(ConfigError, match=r"tracking\.end_wait_s"):
        TrackingOptions(end_wait_s=1e9)
