"""Log bundles as MLflow LoggedModels, which are outputs of one run and inputs of others."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pipeline.tracking.spool import Progress, records_of
from pipeline.tracking.store import link_tree

if TYPE_CHECKING:
    from mlflow import MlflowClient

Record = dict[str, Any]

_NOT_IN_MODEL_NAMES = re.compile(r"[/:.%\"']")


def record_bundle(
    client: "MlflowClient", progress: Progress, record: Record, points: Path | None = None
) -> None:
    """Create the LoggedModel of a bundle, or complete one that an interrupted attempt left.

    `points` is the lane of the spool that contains the run's curves, if it has any.
    """
    from mlflow.entities import LoggedModelOutput

    folder, run_id = Path(record["folder"]), str(progress.run_id)
    if not (folder / "DONE").exists():
        raise FileNotFoundError(f"{folder} is not a finished bundle (it has no DONE)")
    model = _find_or_create(client, progress, record)
    location = urlsplit(model.artifact_location)
    if location.scheme in {"", "file"}:
        target = Path(unquote(location.path))
        target.parent.mkdir(parents=True, exist_ok=True)
        link_tree(folder, target)
    else:
        client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    outputs = client.get_run(run_id).outputs
    if outputs is None or model.model_id not in {output.model_id for output in outputs.model_outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, record["step"])])
    if not client.get_logged_model(model.model_id).metrics:
        _log_metrics(client, run_id, model.model_id, record, points)
    _remove_doubles(client, progress, record, model.model_id)
    progress.models[record["folder"]] = model.model_id


def _mark(progress: Progress, record: Record) -> str:
    return f"{progress.run_id}:{record['name']}:{record['step']}"


def _made_from(client: "MlflowClient", progress: Progress, record: Record) -> list[Any]:
    """Return the models made from this record: none, one, or more if a request was processed late."""
    mark = f"tags.`record` = '{_mark(progress, record)}'"
    return list(client.search_logged_models([str(progress.experiment_id)], filter_string=mark))


def _remove_doubles(client: "MlflowClient", progress: Progress, record: Record, kept: str) -> None:
    for model in _made_from(client, progress, record):
        if model.model_id != kept:
            client.delete_logged_model(model.model_id)


def _find_or_create(client: "MlflowClient", progress: Progress, record: Record) -> Any:
    experiment = str(progress.experiment_id)
    found = _made_from(client, progress, record)
    if found:
        return min(found, key=lambda model: (model.creation_timestamp, model.model_id))
    return client.create_logged_model(
        experiment,
        name=_NOT_IN_MODEL_NAMES.sub("-", f"{record['name']} of {record['tags']['run_name']}"),
        source_run_id=progress.run_id,
        tags={**record["tags"], "record": _mark(progress, record), "step": str(record["step"])},
        params=record["params"],
        model_type=record["tags"]["stage"],
    )


def _log_metrics(
    client: "MlflowClient", run_id: str, model_id: str, record: Record, points: Path | None
) -> None:
    """Record the metrics with the model and the data set.

    MLflow also adds them to the run's curves. A point that a curve already has is logged with its original
    time, so that it is not duplicated.
    """
    from mlflow.entities import Metric

    metrics: list[Metric] = []
    known = _logged(points, {record["step"], 0}) if points else {}
    for key, value in record["metrics"].items():
        time_ms, step = known.get((key, value), (int(record["time_ms"]), int(record["step"])))
        dataset = _measured_on(record["datasets"], key)
        on: dict[str, Any] = {"dataset_name": dataset.get("name"), "dataset_digest": dataset.get("digest")}
        metrics.append(Metric(key, value, time_ms, step, model_id=model_id, run_id=run_id, **on))
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def _logged(points: Path, steps: set[int]) -> dict[tuple[str, float], tuple[int, int]]:
    """Return (metric, value) -> (time in ms, step) for the points that the run logged at these steps."""
    return {
        (key, value): (logged["time_ms"], logged["step"])
        for logged in records_of(points, "metrics")
        if logged["step"] in steps
        for key, value in logged["values"].items()
    }


def _measured_on(datasets: dict[str, dict[str, str] | None], metric: str) -> dict[str, str]:
    split = re.split("[/_]", metric)[0]
    return datasets.get(split) or (datasets.get("val") if split == "test" else None) or {}


def record_use(client: "MlflowClient", progress: Progress, record: Record) -> None:
    """Record the model that a run starts from; only as a tag if that model is not in this store."""
    from mlflow.entities import LoggedModelInput

    folder, run_id = Path(record["folder"]), str(progress.run_id)
    client.set_tag(run_id, "parent_bundle", str(folder))
    maker = maker_of(folder)
    if maker is None or maker.uri != progress.uri:
        return
    client.set_tag(run_id, "parent_run", str(maker.run_id))
    model_id = maker.models.get(str(folder))
    if model_id is None:
        return
    inputs = client.get_run(run_id).inputs
    if inputs is None or model_id not in {used.model_id for used in inputs.model_inputs}:
        client.log_inputs(run_id, models=[LoggedModelInput(model_id)])


def maker_of(bundle: Path) -> Progress | None:
    """Return the tracking progress of the run whose folder contains a bundle, or None."""
    for folder in [bundle, *bundle.parents][:3]:
        if (folder / "tracking" / "progress.json").exists():
            return Progress.load(folder / "tracking")
    return None
