"""A project that was moved or copied: what was tracked is found, and what is new goes to where it is now."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from pipeline.errors import TrackingError
from pipeline.tracking import RunCard, TrackingOptions, start_run, sync
from pipeline.tracking.options import resolve_store
from pipeline.tracking.spool import Progress
from pipeline.tracking.store import open_client

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

QUIET = TrackingOptions(end_wait_s=0.0, system_metrics=False)


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Makes a folder the working folder, as a user's `cd` does."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def change(folder: Path) -> Path:
        monkeypatch.chdir(folder)
        return folder

    return change


@pytest.fixture
def project(ready_database: Path, tmp_path: Path, enter: Callable[[Path], Path]) -> Path:
    """A project with its store, and a run that has logged a file and a model."""
    folder = tmp_path / "old place"
    folder.mkdir()
    shutil.copyfile(ready_database, folder / "mlflow.db")
    open_client(resolve_store(None, project_folder=enter(folder), environ={}))
    track("first")
    return folder


def track(name: str) -> None:
    """A run of the working folder's project, sent to its store at once."""
    folder = Path.cwd() / "runs" / name
    card = RunCard(stage="pretrain", name=name, config={"lr": 0.1}, seed=1)
    run = start_run(
        card, options=QUIET, run_folder=folder, project_folder=Path.cwd(), environ=dict(os.environ)
    )
    made = folder / "bundles" / "best"
    made.mkdir(parents=True, exist_ok=True)
    (made / "DONE").write_text(name)
    run.log_text(f"of {name}", "note.md")
    run.log_bundle(made, name="best", step=1, metrics={"val/loss": 1.0})
    run.end("FINISHED")
    report = sync(folder, environ=os.environ)
    assert (report.n_left, report.refused) == (0, [])


def found(client: Any, name: str) -> tuple[Path, Path]:
    """Where MLflow's own client finds a run's file and its model's."""
    progress = Progress.load(Path.cwd() / "runs" / name / "tracking")
    assert Path(client.download_artifacts(progress.run_id, "note.md")).read_text() == f"of {name}"
    (model,) = progress.models.values()
    assert "DONE" in [item.path for item in client.list_logged_model_artifacts(model)]
    places = (
        client.get_run(progress.run_id).info.artifact_uri,
        client.get_logged_model(model).artifact_location,
    )
    note, done = (Path(unquote(urlsplit(place).path)) for place in places)
    return note / "note.md", done / "DONE"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("is_copied", [False, True])
def test_old_and_new_files_are_found_in_the_new_place_and_the_old_one_stays_as_it_was(
    is_copied: bool, project: Path, tmp_path: Path, enter: Callable[[Path], Path]
) -> None:
    new = tmp_path / "neuer Ort"
    (shutil.copytree if is_copied else shutil.move)(project, new)
    before = files_of(project) if is_copied else {}
    enter(new)
    track("second")
    client = open_client(resolve_store(None, project_folder=new, environ={}))
    for name in ("first", "second"):
        for file in found(client, name):
            assert file.is_file()
            assert file.is_relative_to(new)
    assert files_of(project) == before


def test_a_run_of_a_moved_project_goes_on_in_its_store(
    project: Path, tmp_path: Path, enter: Callable[[Path], Path]
) -> None:
    run_id = Progress.load(project / "runs/first/tracking").run_id
    enter(Path(shutil.move(project, tmp_path / "new")))
    track("first")
    progress = Progress.load(Path("runs/first/tracking").absolute())
    assert (progress.run_id, progress.uri) == (run_id, f"sqlite:///{tmp_path}/new/mlflow.db")


def test_a_store_that_is_reached_by_two_ways_keeps_its_places(project: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(project)
    before = (project / "mlflow.db").read_bytes()
    open_client(resolve_store(None, project_folder=tmp_path / "link", environ={}))
    assert (project / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize("name", ["who?", "100%", "\udcff"])
def test_a_path_that_an_address_cannot_hold_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="without \\? and %"):
        resolve_store(None, project_folder=tmp_path / name, environ={})
