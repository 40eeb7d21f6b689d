"""Log a bundle to MLflow when it is registered, if its run was not tracked."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runs.stored import read_part
from pipeline.tracking.describe import result_table, without_ends
from pipeline.tracking.models import record_bundle
from pipeline.tracking.options import Store
from pipeline.tracking.redaction import Redactor, flatten
from pipeline.tracking.spool import Progress, now_ms
from pipeline.tracking.store import experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient


def log_untracked(
    client: "MlflowClient", store: Store, folder: Path, *, experiment: str, environ: Mapping[str, str]
) -> Progress:
    """Log a bundle as the model of a new run that has its settings and results, but no curves.

    Raises:
        MlflowException: if the store rejects it; the new run is then FAILED.
    """
    record = _record(folder, Redactor(environ))
    found = experiment_id(client, experiment, store.artifact_root)
    run = client.create_run(found, run_name=record["tags"]["run_name"], tags=_tags(record))
    made = Progress(uri=store.public_uri, run_id=run.info.run_id, experiment_id=found)
    status = "FAILED"
    try:
        for key, value in record["params"].items():
            client.log_param(run.info.run_id, key, value)
        record_bundle(client, made, record)
        status = "FINISHED"
    finally:
        client.set_terminated(run.info.run_id, status)
    return made


def _record(folder: Path, redactor: Redactor) -> dict[str, Any]:
    """Return the record that the run would have written to its spool."""
    metrics, provenance = (read_part(folder, name) for name in ("metrics.json", "provenance.json"))
    config = redactor.value("", read_part(folder, "config.yaml"))
    return {
        "folder": str(folder.absolute()),
        "name": folder.name,
        "time_ms": now_ms(),
        "step": int(provenance.get("step") or 0),
        "metrics": without_ends(metrics),
        "datasets": {},
        "params": flatten(config),
        "tags": {
            "stage": str(provenance.get("stage", "train")),
            "run_name": redactor.text(str(provenance["run"])),
            "mlflow.note.content": result_table(metrics),
        },
    }


def _tags(record: Mapping[str, Any]) -> dict[str, str]:
    tags = record["tags"]
    note = "This run was not tracked; its bundle was logged when it was registered, so there are no curves."
    return {
        "stage": tags["stage"],
        "tracked": "when registered",
        "mlflow.note.content": f"{note}\n\n{tags['mlflow.note.content']}",
    }
