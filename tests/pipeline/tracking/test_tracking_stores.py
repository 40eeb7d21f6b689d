"""A pretraining and a fine-tuning from it, tracked in each kind of store, read back as MLflow shows them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipeline.tracking.options import Store, resolve_store
from pipeline.tracking.spool import Progress
from pipeline.tracking.store import open_client
from tests.pipeline.tracking.real_stores import ADMIN, ADMIN_PASSWORD, basic_auth_server, postgres
from tests.pipeline.tracking.whole_trainings import (
    FINETUNE,
    PRETRAIN,
    assert_all_there,
    run,
    run_id_of,
    spooled,
    wait_until_sent,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.xdist_group("stores"),
]

#: Until all is sent, however slow the machine is.
WAIT = "tracking.end_wait_s=600"
SECRET = "zebra-42-zebra"
SIGN_IN = {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": ADMIN_PASSWORD}


@dataclass(frozen=True)
class Tracked:
    """Two trainings and the store that they were tracked in."""

    kind: str
    folder: Path
    client: Any
    talk: str

    def found(self, name: str) -> Any:
        return self.client.get_run(run_id_of(self.folder / "runs" / name))

    def models(self, name: str) -> dict[str, Any]:
        outputs = self.found(name).outputs.model_outputs
        models = [self.client.get_logged_model(output.model_id) for output in outputs]
        return {model.name.partition(" ")[0]: model for model in models}


@contextmanager
def place(kind: str, folder: Path) -> Iterator[dict[str, str]]:
    """The environment that leads to a store of this kind."""
    if kind == "sqlite":
        yield {}
    elif kind == "basic-auth":
        with basic_auth_server(folder) as uri:
            yield {"MLFLOW_TRACKING_URI": uri, **SIGN_IN}
    else:
        with postgres() as uri:
            yield {"MLFLOW_TRACKING_URI": uri}


@pytest.fixture(scope="module", params=["sqlite", "basic-auth", "postgresql"])
def tracked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    folder = tmp_path_factory.mktemp(request.param)
    with place(request.param, folder) as settings, pytest.MonkeyPatch.context() as patch:
        settings["SERVICE_TOKEN"] = SECRET  # which the user has put into a setting as well
        first = run(folder, *PRETRAIN, WAIT, f"prompts=[{SECRET}]", "name=first", **settings)
        assert first.returncode == 0, first.stderr
        second = run(folder, *FINETUNE, WAIT, "init_from=first", "name=second", **settings)
        assert second.returncode == 0, second.stderr
        for key, value in settings.items():
            patch.setenv(key, value)
        uri = settings.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        store = resolve_store(uri, project_folder=folder, environ={})
        patch.setenv("MLFLOW_TRACKING_URI", store.uri)
        client: Any = open_client(store)
        for name in ("first", "second"):  # a server that hashes a password for each request is slow
            wait_until_sent(folder / "runs" / name, uri)
        yield Tracked(request.param, folder, client, first.stderr + second.stderr)
        if uri.startswith(("sqlite:", "postgresql")):
            client._tracking_client.store._dispose_engine()


def test_every_point_is_there_once_at_its_own_step_and_time(tracked: Tracked) -> None:
    assert "were not sent to MLflow" not in tracked.talk
    for name in ("first", "second"):
        folder = tracked.folder / "runs" / name
        assert_all_there(tracked.client, folder)
        assert Progress.load(folder / "tracking").refused == []
        assert any(key.startswith("system/") for key in spooled(folder))


def test_parameters_tags_and_description_are_there(tracked: Tracked) -> None:
    for name, stage in (("first", "pretrain"), ("second", "finetune")):
        found = tracked.found(name)
        assert found.info.run_name == name
        assert found.data.params["trainer.max_steps"] == "20"
        assert found.data.tags["stage"] == stage
        assert found.data.tags["git_commit"]
        assert "| val/loss |" in found.data.tags["mlflow.note.content"]


def test_the_corpora_are_inputs_with_our_digests(tracked: Tracked) -> None:
    inputs = tracked.found("second").inputs.dataset_inputs
    contexts = {entry.dataset.name: entry.tags[0].value for entry in inputs}
    assert set(contexts.values()) == {"train", "validation", "test"}
    assert len({entry.dataset.digest for entry in inputs}) == 3
    assert len(tracked.found("first").inputs.dataset_inputs) == 2


def test_both_bundles_are_models_with_metrics_tied_to_the_data_they_were_measured_on(
    tracked: Tracked,
) -> None:
    for name in ("first", "second"):
        models = tracked.models(name)
        assert set(models) == {"best", "last"}
        for model in models.values():
            assert model.status == "READY"
            assert model.source_run_id == run_id_of(tracked.folder / "runs" / name)
            tied = {metric.key: metric.dataset_name for metric in model.metrics}
            assert tied["val/loss"].endswith(":validation")
            assert {metric.model_id for metric in model.metrics} == {model.model_id}
    tested = [m for m in tracked.models("second")["best"].metrics if m.key.startswith("test_")]
    digests = {e.dataset.name: e.dataset.digest for e in tracked.found("second").inputs.dataset_inputs}
    assert tested
    for metric in tested:
        assert metric.dataset_name.endswith(":test")
        assert metric.dataset_digest == digests[metric.dataset_name]


def test_a_fine_tuning_is_tied_to_the_model_it_started_from(tracked: Tracked) -> None:
    second = tracked.found("second")
    used = [entry.model_id for entry in second.inputs.model_inputs]
    assert used == [tracked.models("first")["best"].model_id]
    assert second.data.tags["parent_run"] == run_id_of(tracked.folder / "runs/first")


def test_files_and_pictures_are_there_and_can_be_fetched(tracked: Tracked, tmp_path: Path) -> None:
    for name in ("first", "second"):
        run_id = run_id_of(tracked.folder / "runs" / name)
        files = {file.path for file in tracked.client.list_artifacts(run_id)}
        plots = {file.path for file in tracked.client.list_artifacts(run_id, "plots")}
        assert {"config.yaml", "provenance.json", "plots"} <= files
        assert {"plots/learning_curves.png", "plots/attention.png"} <= plots
        for plot in ("learning_curves", "attention"):
            file = tracked.client.download_artifacts(run_id, f"plots/{plot}.png", str(tmp_path))
            assert Path(file).read_bytes().startswith(b"\x89PNG")
        best = tracked.models(name)["best"]
        held = {Path(file.path).name for file in tracked.client.list_logged_model_artifacts(best.model_id)}
        assert {"DONE", "model.safetensors", "tokenizer.json"} <= held


def test_no_password_of_the_store_is_in_any_file_of_the_runs(tracked: Tracked) -> None:
    for file in (tracked.folder / "runs").rglob("*"):
        if file.is_file():
            held = file.read_bytes()
            assert ADMIN_PASSWORD.encode() not in held, file
            assert ADMIN_PASSWORD.replace(" ", "%20").encode() not in held, file


def test_no_secret_of_the_environment_reaches_the_store(tracked: Tracked, tmp_path: Path) -> None:
    """Neither in records nor in files, those of models included."""
    for name in ("first", "second"):
        run_id, data = run_id_of(tracked.folder / "runs" / name), tracked.found(name).data
        assert SECRET not in f"{data.params} {data.tags}"
        (tmp_path / name).mkdir()
        tracked.client.download_artifacts(run_id, "", str(tmp_path / name))
        for kind, model in tracked.models(name).items():
            assert SECRET not in f"{model.params} {model.tags}"
            held = tmp_path / name / kind
            held.mkdir()
            mlflow.artifacts.download_artifacts(f"models:/{model.model_id}", dst_path=str(held))
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"model.safetensors", "config.yaml", "attention.png"} <= {file.name for file in kept}
    assert [file for file in kept if SECRET.encode() in file.read_bytes()] == []


def test_a_wrong_password_costs_a_note_and_the_right_one_sends_all_later(tmp_path: Path) -> None:
    with basic_auth_server(tmp_path) as uri, pytest.MonkeyPatch.context() as patch:
        settings = {"MLFLOW_TRACKING_URI": uri, **SIGN_IN}
        wrong = {**settings, "MLFLOW_TRACKING_PASSWORD": "no such password"}
        trained = run(tmp_path, *PRETRAIN, WAIT, "name=a", **wrong)
        assert trained.returncode == 0, trained.stderr
        (note,) = [line for line in trained.stderr.splitlines() if "tracking:" in line]
        assert f"{uri} does not accept this user and password" in note
        assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, then `make sync`" in note
        refused = run(tmp_path, "sync", **wrong)
        assert refused.returncode == 2
        assert "MLFLOW_TRACKING_PASSWORD" in refused.stderr.splitlines()[-1]
        sent = run(tmp_path, "sync", **settings)
        assert sent.returncode == 0, sent.stderr
        for key, value in settings.items():
            patch.setenv(key, value)
        assert_all_there(open_client(Store(uri, None)), tmp_path / "runs/a")
