"""What the spool says reaches a real MLflow database: whole, once, with its own steps and times."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TrackingError
from pipeline.tracking import DatasetRecord, Run, sync, unsynced_runs
from pipeline.tracking.options import Store
from pipeline.tracking.replay import Replay
from pipeline.tracking.spool import Spool, lane_file

Begin = Callable[..., Run]
# MLflow's own use of a thing that sqlalchemy 2.1 will take away one day.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture
def drain(tmp_path: Path, store: Store, client: Any) -> Callable[..., Replay]:
    def send(folder: str = "run") -> Replay:
        replay = Replay(tmp_path / folder / "tracking", store, client=client)
        assert replay.drain()
        return replay

    return send


def history(client: Any, run_id: str, key: str) -> list[tuple[int, int, float]]:
    return [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run_id, key)]


def bundle_folder(folder: Path, *, finished: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    if finished:
        (folder / "DONE").write_text("")
    return folder


def everything(begin: Begin, tmp_path: Path, corpus: DatasetRecord) -> None:
    """A run that uses every call once."""
    run = begin({"model": {"n_layers": 2}, "hf_token": "abc"})
    run.log_dataset(corpus, "train")
    run.log_dataset(corpus, "validation")
    for step in range(1, 6):
        run.log_metrics({"train/loss": 1 / step, "tokens_seen": 64 * step}, step)
    run.log_metrics({"val/loss": 0.25}, 5)
    run.set_tags({"pipeline_id": "p1"})
    run.log_text("# sample", "samples/step-000005.md")
    bundle = bundle_folder(tmp_path / "run" / "best")
    run.log_bundle(bundle, name="best", step=5, metrics={"val/loss": 0.25})
    run.end("FINISHED", {"val/loss": 0.25})


def test_a_run_arrives_with_parameters_tags_status_and_files(
    begin: Begin, drain: Callable[..., Replay], client: Any, tmp_path: Path, corpus: DatasetRecord
) -> None:
    everything(begin, tmp_path, corpus)
    replay = drain()
    run = client.get_run(replay.run_id)
    assert replay.progress.refused == []
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "pretrain tiny"
    assert run.data.params == {"model.n_layers": "2", "hf_token": "<redacted>"}
    assert run.data.tags["pipeline_id"] == "p1"
    assert run.data.tags["stage"] == "pretrain"
    assert "| val/loss | 0.25 |" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["best_val_loss"] == 0.25
    root = tmp_path / "mlartifacts" / replay.run_id / "artifacts"
    assert (root / "samples" / "step-000005.md").read_text() == "# sample"
    assert (root / "plots" / "learning_curves.png").exists()
    assert "<redacted>" in (root / "config.yaml").read_text()
    assert json.loads((root / "provenance.json").read_text())["seed"] == "1"


@pytest.mark.slow
def test_a_spool_sent_twice_changes_nothing(
    begin: Begin, drain: Callable[..., Replay], client: Any, tmp_path: Path, corpus: DatasetRecord
) -> None:
    everything(begin, tmp_path, corpus)
    first = drain()
    before = client.get_run(first.run_id)
    curves = {key: history(client, first.run_id, key) for key in before.data.metrics}
    (tmp_path / "run" / "tracking" / "progress.json").unlink()  # as if no answer had ever come back
    second = drain()
    after = client.get_run(second.run_id)
    assert second.progress.refused == []
    assert second.run_id == first.run_id
    assert len(client.search_runs([first.progress.experiment_id])) == 1
    assert {key: history(client, first.run_id, key) for key in after.data.metrics} == curves
    assert after.data.params == before.data.params
    assert after.data.tags == before.data.tags
    assert len(after.inputs.dataset_inputs) == 2
    assert len(after.outputs.model_outputs) == 1
    assert len(client.search_logged_models([first.progress.experiment_id])) == 1


def test_only_what_was_not_acknowledged_is_sent_again(
    begin: Begin, drain: Callable[..., Replay], client: Any, tmp_path: Path
) -> None:
    run = begin()
    run.log_metrics({"a": 1.0}, 1)
    run.end()
    drain()
    folder = tmp_path / "run" / "tracking"
    Spool(lane_file(folder, "points")).append(
        {"kind": "metrics", "time_ms": 5, "step": 2, "values": {"a": 2.0}}
    )
    replay = Replay(folder, Store("sqlite:///nowhere", None), client=client)
    sent = [batch for batch, _ in replay._batches("points")]
    assert [record["step"] for batch in sent for record in batch] == [2]


@pytest.mark.slow
def test_thousands_of_points_go_in_requests_of_at_most_a_thousand(
    begin: Begin, drain: Callable[..., Replay], client: Any
) -> None:
    run = begin()
    for step in range(701):
        run.log_metrics({"a": step, "b": -step, "c": 0.5}, step)
    run.log_metrics({f"wide/{n}": float(n) for n in range(1100)}, 701)
    run.end()
    replay = drain()
    assert len(history(client, replay.run_id, "a")) == 701
    assert client.get_run(replay.run_id).data.metrics["wide/1099"] == 1099


def test_a_point_that_mlflow_refuses_is_left_out_alone(
    begin: Begin, drain: Callable[..., Replay], client: Any
) -> None:
    run = begin()
    run.log_metrics({"good": 1.0, "x" * 400: 2.0, "with ünicode 🐉 @k": 3.0}, 1)
    run.log_metrics({"good": 4.0}, 2)
    run.end()
    replay = drain()
    metrics = client.get_run(replay.run_id).data.metrics
    assert metrics["good"] == 4.0
    assert metrics["with ünicode _ _k"] == 3.0
    assert len(replay.progress.refused) == 1
    assert "x" * 20 in replay.progress.refused[0]


def test_numbers_that_are_none_arrive_as_mlflow_keeps_them(
    begin: Begin, drain: Callable[..., Replay], client: Any
) -> None:
    run = begin()
    run.log_metrics({"nan": math.nan, "inf": math.inf}, 1)
    run.end()
    metrics = client.get_run(drain().run_id).data.metrics
    assert math.isnan(metrics["nan"])
    assert metrics["inf"] > 1e300


def test_a_damaged_line_is_counted_and_the_rest_arrives(
    begin: Begin, drain: Callable[..., Replay], client: Any, tmp_path: Path
) -> None:
    run = begin()
    run.log_metrics({"a": 1.0}, 1)
    run.end()
    file = lane_file(tmp_path / "run" / "tracking", "points")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b'{"kind":"metr\n', *lines[1:]]))
    replay = drain()
    assert client.get_run(replay.run_id).data.metrics["a"] == 1.0
    assert "damaged" in replay.progress.refused[0]


@pytest.mark.parametrize("name", ["a/b\\c ' \" ; --", "预训练 🐉 modèle", "x" * 300])
def test_any_run_name_is_kept(
    name: str, tmp_path: Path, drain: Callable[..., Replay], client: Any, begin: Begin
) -> None:
    run = begin(name=name)
    run.log_bundle(bundle_folder(tmp_path / "run" / "best"), name="best", step=1, metrics={})
    run.end()
    replay = drain()
    assert replay.progress.refused == []
    assert client.get_run(replay.run_id).info.run_name == name


def test_a_resumed_run_is_the_same_run_running_again(
    begin: Begin, drain: Callable[..., Replay], client: Any
) -> None:
    run = begin()
    run.log_metrics({"a": 1.0}, 1)
    run.end("KILLED")
    first = drain()
    assert client.get_run(first.run_id).info.status == "KILLED"
    again = begin()
    again.end("FINISHED")
    statuses: list[str] = []
    update = client.update_run
    client.update_run = lambda *a, **k: (update(*a, **k), statuses.append(client.get_run(a[0]).info.status))
    second = drain()
    assert second.run_id == first.run_id == again.run_id
    assert statuses == ["RUNNING"]
    assert client.get_run(first.run_id).info.status == "FINISHED"


def test_steps_that_a_resumed_run_comes_through_again_are_recorded_once(
    begin: Begin, drain: Callable[..., Replay], client: Any, tmp_path: Path
) -> None:
    """Killed after step 3, resumed from that of step 1, and killed again while its bundles were written."""
    folder = bundle_folder(tmp_path / "run" / "best")
    for steps in ((1, 2, 3), (2, 3, 4), (3, 4)):
        run = begin()
        for step in steps:
            run.log_metrics({"train/loss": 1 / step}, step)
            run.log_metrics({"tokens_per_second": time.monotonic()}, step)
        if 4 in steps:
            run.log_bundle(folder, name="best", step=4, metrics={"val/loss": 0.5, "test/f1": 0.4})
        run.end("FINISHED" if steps == (3, 4) else "KILLED", {"val/loss": 0.5} if steps == (3, 4) else None)
    replay = drain()
    metrics = client.get_run(replay.run_id).data.metrics
    steps = {key: [step for step, _, _ in history(client, replay.run_id, key)] for key in metrics}
    assert steps.pop("train/loss") == steps.pop("tokens_per_second") == [1, 2, 3, 4]
    assert {key: len(found) for key, found in steps.items()} == dict.fromkeys(steps, 1)
    assert {"val/loss", "best_val_loss", "test_f1", "system/peak_memory_megabytes"} <= steps.keys()
    (model,) = client.search_logged_models([replay.progress.experiment_id])
    assert [metric.key for metric in model.metrics] == ["val/loss", "test_f1"]


def test_parameters_changed_by_a_resume_become_drift_tags_and_go_when_changed_back(
    begin: Begin, drain: Callable[..., Replay], client: Any
) -> None:
    begin({"lr": 0.1, "old": 1}).end()
    begin({"lr": 0.2, "new": 2}).end()
    replay = drain()
    run = client.get_run(replay.run_id)
    drift = {k: v for k, v in run.data.tags.items() if k.startswith("param_drift.")}
    assert run.data.params["lr"] == "0.1"
    assert drift == {"param_drift.lr": "0.2", "param_drift.new": "2", "param_drift.old": "<absent>"}
    begin({"lr": 0.1, "old": 1}).end()
    tags = client.get_run(drain().run_id).data.tags
    assert [key for key in tags if key.startswith("param_drift.")] == []


def test_a_corpus_is_an_input_with_our_own_digest_and_context(
    begin: Begin, drain: Callable[..., Replay], client: Any, corpus: DatasetRecord
) -> None:
    run = begin()
    for context in ("train", "validation", "tokenizer"):
        run.log_dataset(corpus, context)
    run.end()
    inputs = client.get_run(drain().run_id).inputs.dataset_inputs
    found = {entry.dataset.name: (entry.dataset.digest, entry.tags[0].value) for entry in inputs}
    assert found == {
        "storyworld": (corpus.digest[:36], "train"),
        "storyworld:validation": (corpus.digest[:36], "validation"),
        "storyworld:tokenizer": (corpus.digest[:36], "tokenizer"),
    }
    assert json.loads(inputs[0].dataset.profile) == {"rows": 100}


def test_a_bundle_becomes_a_model_with_its_files_metrics_and_data(
    begin: Begin, drain: Callable[..., Replay], client: Any, tmp_path: Path, corpus: DatasetRecord
) -> None:
    everything(begin, tmp_path, corpus)
    replay = drain()
    run = client.get_run(replay.run_id)
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert run.outputs.model_outputs[0].step == 5
    assert model.status == "READY"
    assert model.name == "best of pretrain tiny"
    assert model.source_run_id == replay.run_id
    assert model.params["model.n_layers"] == "2"
    assert [(m.key, m.value, m.dataset_name) for m in model.metrics] == [
        ("val/loss", 0.25, "storyworld:validation")
    ]
    files = tmp_path / "mlartifacts" / "models" / model.model_id / "artifacts"
    assert sorted(file.name for file in files.iterdir()) == ["DONE", "model.safetensors"]
    original = tmp_path / "run" / "best" / "model.safetensors"
    assert os.path.samefile(files / "model.safetensors", original)  # a link, not a copy
    assert len(history(client, replay.run_id, "val/loss")) == 1  # the curve has no point twice


def test_what_was_tested_is_one_number_of_the_run_and_of_its_model_tied_to_the_data(
    begin: Begin, drain: Callable[..., Replay], client: Any, tmp_path: Path, corpus: DatasetRecord
) -> None:
    run = begin()
    run.log_dataset(corpus, "test")
    metrics = {"test/f1": 0.5, "test/f1_low": 0.4, "test/f1_high": 0.6}
    run.log_bundle(bundle_folder(tmp_path / "run" / "best"), name="best", step=5, metrics=metrics)
    run.end("FINISHED", {"val/loss": 0.25, **metrics})
    replay = drain()
    assert [(step, value) for step, _, value in history(client, replay.run_id, "test_f1")] == [(0, 0.5)]
    found = client.get_run(replay.run_id)
    assert not found.data.metrics.keys() & {"test/f1", "best_val_loss"}
    model = client.get_logged_model(found.outputs.model_outputs[0].model_id)
    assert [(m.key, m.value, m.dataset_name) for m in model.metrics] == [("test_f1", 0.5, "storyworld:test")]


def test_a_report_stands_in_a_table_apart_from_trainings(
    begin: Begin, store: Store, client: Any, tmp_path: Path
) -> None:
    begin(folder="training").end()
    begin(folder="comparison", is_report=True).end()
    names = []
    for folder in ("training", "comparison"):
        replay = Replay(tmp_path / folder / "tracking", store, client=client)
        replay.drain()
        names.append(client.get_experiment(replay.progress.experiment_id).name)
    assert names == ["prelude", "prelude-reports"]


def test_an_unfinished_bundle_is_refused_and_the_rest_arrives(
    begin: Begin, drain: Callable[..., Replay], client: Any, tmp_path: Path
) -> None:
    run = begin()
    run.log_bundle(bundle_folder(tmp_path / "half", finished=False), name="best", step=1, metrics={})
    run.log_text("later", "later.md")
    run.end()
    replay = drain()
    assert "no DONE" in replay.progress.refused[0]
    assert client.search_logged_models([replay.progress.experiment_id]) == []
    assert (tmp_path / "mlartifacts" / replay.run_id / "artifacts" / "later.md").exists()


def test_a_run_that_uses_a_bundle_is_tied_to_the_model_and_its_maker(
    begin: Begin, drain: Callable[..., Replay], client: Any, tmp_path: Path, corpus: DatasetRecord
) -> None:
    everything(begin, tmp_path, corpus)
    maker = drain()
    user = begin(folder="second")
    user.use_bundle(tmp_path / "run" / "best")
    user.end()
    run = client.get_run(drain("second").run_id)
    assert [used.model_id for used in run.inputs.model_inputs] == list(maker.progress.models.values())
    assert run.data.tags["parent_run"] == maker.run_id


def test_a_bundle_from_elsewhere_leaves_a_tag(
    begin: Begin, drain: Callable[..., Replay], client: Any, tmp_path: Path
) -> None:
    run = begin()
    run.use_bundle(bundle_folder(tmp_path / "elsewhere" / "a" / "b" / "c"))
    run.end()
    run_found = client.get_run(drain().run_id)
    assert run_found.data.tags["parent_bundle"].endswith("elsewhere/a/b/c")
    assert run_found.inputs.model_inputs == []


def test_a_run_deleted_in_the_ui_keeps_its_spool(
    begin: Begin, drain: Callable[..., Replay], client: Any, tmp_path: Path, store: Store
) -> None:
    run = begin()
    run.log_metrics({"a": 1.0}, 1)
    run.end()
    replay = drain()
    client.delete_run(replay.run_id)
    again = begin()
    again.log_metrics({"a": 2.0}, 2)
    again.end()
    report = sync(tmp_path / "run", environ={})
    assert report.n_left > 0
    assert report.problem
    client.restore_run(replay.run_id)
    assert sync(tmp_path / "run", environ={}).n_left == 0
    assert [value for _, _, value in history(client, replay.run_id, "a")] == [1.0, 2.0]


def test_sync_sends_what_is_left_and_ends_a_run_that_died_unseen(
    begin: Begin, client: Any, tmp_path: Path, store: Store
) -> None:
    run = begin()
    run.log_metrics({"a": 1.0}, 1)
    run.end()
    file = lane_file(tmp_path / "run" / "tracking", "points")
    file.write_bytes(
        b"".join(line for line in file.read_bytes().splitlines(True) if b'"kind":"end"' not in line)
    )
    assert unsynced_runs(tmp_path) == [tmp_path / "run"]
    report = sync(tmp_path / "run", environ={})
    assert report.n_left == 0
    assert "records sent" in report.line
    assert client.get_run(report.run_id).info.status == "KILLED"
    assert unsynced_runs(tmp_path) == []
    assert sync(tmp_path / "run", environ={}).n_sent == 0


def test_syncing_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="is not the folder of a tracked run"):
        sync(tmp_path, uri="sqlite:///mlflow.db", environ={})
    assert list(tmp_path.iterdir()) == []
