"""Send a run's spool to MLflow: every record exactly once, with its own step and time, despite retries.

What the store has acknowledged is saved after each request. A request whose response was lost is repeated:
MLflow ignores a repeated point of the same name, step, time and value, and for everything else the store is
queried before it is changed.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tracking.figures import LEARNING_CURVES, draw_learning_curves
from pipeline.tracking.models import record_bundle, record_use
from pipeline.tracking.options import Store
from pipeline.tracking.places import found_path
from pipeline.tracking.problems import first_line
from pipeline.tracking.spool import FILES, LANES, POINTS, Progress, lane_file, read_records
from pipeline.tracking.store import experiment_id, is_permanent, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.entities import Run as MlflowRun

Record = dict[str, Any]

MAX_METRICS = 1000  # MLflow's limits for one request
MAX_PARAMS_AND_TAGS = 100
MAX_TAG_CHARS = 8000
_DESCRIBING_TAGS = frozenset({"mlflow.note.content", "local_id"})


class Replay:
    """Brings a store up to date with the tracking folder of one run."""

    def __init__(self, folder: Path, store: Store, *, client: "MlflowClient | None" = None) -> None:
        self.folder, self.store = folder, store
        self.progress = Progress.load(folder)
        self._client = client
        self._apply: dict[str, Callable[[Record], None]] = {
            "start": self._start,
            "tags": self._tags,
            "end": self._end,
            "file": self._file,
            "dataset": self._dataset,
            "bundle": lambda record: record_bundle(
                self.client, self.progress, self._found(record), lane_file(self.folder, POINTS)
            ),
            "use_bundle": lambda record: record_use(self.client, self.progress, self._found(record)),
        }

    def _found(self, record: Record) -> Record:
        """Return a record about a bundle, with the current location of its folder."""
        return {**record, "folder": str(found_path(record["folder"], self.folder.parent))}

    @property
    def client(self) -> "MlflowClient":
        """The client of the store, opened on first use."""
        if self._client is None:
            self._client = open_client(self.store)
        return self._client

    @property
    def run_id(self) -> str:
        """The id of the run in the store."""
        if self.progress.run_id is None:
            raise LookupError("the spool does not begin with the start of a run")
        return self.progress.run_id

    def drain(self, *, deadline: float = float("inf")) -> bool:
        """Send records until `time.monotonic()` passes the deadline; return False if some are left.

        Raises:
            Exception: for any failure of the store; everything before it is recorded as sent.
        """
        for lane in LANES:
            for batch, offset in self._batches(lane):
                self._send(batch)
                self.progress.offsets[lane] = offset
                self.progress.problem, self.progress.remedy = None, ""
                self.progress.save(self.folder)
                if time.monotonic() > deadline:
                    return False
        return True

    def _batches(self, lane: str) -> Iterator[tuple[list[Record], int]]:
        """Yield batches of records and the offset after each; metrics are combined, others sent singly."""
        waiting: list[Record] = []
        n_waiting, end = 0, self.progress.offsets.get(lane, 0)
        for record, offset in read_records(lane_file(self.folder, lane), end):
            if record is None:
                self.progress.refused.append(f"a damaged line of {lane} before byte {offset}")
                end = offset
                continue
            is_metrics = record["kind"] == "metrics"
            size = len(record["values"]) if is_metrics else 0
            if waiting and (not is_metrics or n_waiting + size > MAX_METRICS):
                yield waiting, end
                waiting, n_waiting = [], 0
            if is_metrics:
                waiting.append(record)
                n_waiting += size
            else:
                yield [record], offset
            end = offset
        if waiting:
            yield waiting, end

    def _send(self, batch: list[Record]) -> None:
        if batch[0]["kind"] == "metrics":
            metrics = [metric for record in batch for metric in _metrics(record)]
            for start in range(0, len(metrics), MAX_METRICS):
                self._metrics(metrics[start : start + MAX_METRICS])
            return
        try:
            self._apply[batch[0]["kind"]](batch[0])
        except Exception as error:
            self._reject_if_permanent(f"{batch[0]['kind']} {_title(batch[0])}", error)

    def _metrics(self, metrics: "list[Metric]") -> None:
        """Send points; if MLflow rejects some, bisect so that only those are left out."""
        try:
            self.client.log_batch(self.run_id, metrics=metrics)
        except Exception as error:
            if len(metrics) == 1 or not is_permanent(error):
                self._reject_if_permanent(f"metric {metrics[0].key} at step {metrics[0].step}", error)
                return
            middle = len(metrics) // 2
            self._metrics(metrics[:middle])
            self._metrics(metrics[middle:])

    def _reject_if_permanent(self, what: str, error: Exception) -> None:
        """Record a rejection if the store works and knows the run; otherwise raise, to try again later."""
        if not is_permanent(error):
            raise error
        if self.progress.run_id is None or self.client.get_run(self.run_id).info.lifecycle_stage != "active":
            raise error
        self.progress.refused.append(f"{what}: {first_line(error)}")

    def _start(self, record: Record) -> None:
        if self.progress.run_id is not None:
            self._reopen(record)
            return
        experiment = experiment_id(self.client, record["experiment"], self.store.artifact_root)
        local_id = record["local_id"]
        found = self._runs_of(experiment, local_id)
        run = (
            min(found, key=lambda run: run.info.run_id)
            if found
            else self.client.create_run(
                experiment, start_time=record["time_ms"], tags={"local_id": local_id}, run_name=record["name"]
            )
        )
        run_id = run.info.run_id
        if not run_id:  # MLflow accepts an empty response as success
            raise ConnectionError("the server's response to the start of the run was empty")
        self._log_params(run_id, record["params"])
        self._set_tags(run_id, record["tags"])
        self.progress.run_id, self.progress.experiment_id = run_id, experiment
        self.progress.uri = self.store.public_uri

    def _runs_of(self, experiment: str, local_id: str) -> "list[MlflowRun]":
        return list(self.client.search_runs([experiment], f"tags.local_id = '{local_id}'"))

    def _remove_doubles(self) -> None:
        """Delete duplicate runs, which a server created late from requests that had timed out."""
        local_id = self.client.get_run(self.run_id).data.tags.get("local_id", "")
        for run in self._runs_of(str(self.progress.experiment_id), local_id):
            if run.info.run_id != self.run_id:
                self.client.delete_run(run.info.run_id)

    def _reopen(self, record: Record) -> None:
        """Reopen the run (RUNNING again); parameters that have changed become `param_drift.` tags."""
        run = self.client.get_run(self.run_id)
        self.client.update_run(self.run_id, status="RUNNING")
        first = {**run.data.params, **{k: run.data.tags[k] for k in record["tags"] if k in run.data.tags}}
        now = {**_clean_keys(record["params"]), **record["tags"]}
        describing = {key: now[key] for key in _DESCRIBING_TAGS & now.keys()}
        drift = {
            f"param_drift.{key}"[:250]: now.get(key, "<absent>")
            for key in {*run.data.params, *now}
            if key not in _DESCRIBING_TAGS and now.get(key) != first.get(key)
        }
        for tag in run.data.tags:
            if tag.startswith("param_drift.") and tag not in drift:
                self.client.delete_tag(self.run_id, tag)
        self._set_tags(self.run_id, {**describing, **drift})

    def _log_params(self, run_id: str, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        entities = [Param(key, value) for key, value in _clean_keys(params).items()]
        for start in range(0, len(entities), MAX_PARAMS_AND_TAGS):
            self.client.log_batch(run_id, params=entities[start : start + MAX_PARAMS_AND_TAGS])

    def _set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(key, value[:MAX_TAG_CHARS]) for key, value in _clean_keys(tags).items()]
        for start in range(0, len(entities), MAX_PARAMS_AND_TAGS):
            self.client.log_batch(run_id, tags=entities[start : start + MAX_PARAMS_AND_TAGS])

    def _tags(self, record: Record) -> None:
        self._set_tags(self.run_id, record["tags"])

    def _end(self, record: Record) -> None:
        self.client.set_terminated(self.run_id, record["status"], record["time_ms"])
        self._remove_doubles()
        if draw_learning_curves(lane_file(self.folder, POINTS), self.folder / FILES / LEARNING_CURVES):
            self._file({"artifact": LEARNING_CURVES})

    def _file(self, record: Record) -> None:
        artifact = Path(record["artifact"])
        inside = None if artifact.parent == Path() else artifact.parent.as_posix()
        self.client.log_artifact(self.run_id, str(self.folder / FILES / artifact), inside)

    def _dataset(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        columns = [{"type": kind, "name": name} for name, kind in record["columns"].items()]
        dataset = Dataset(
            name=record["name"],
            digest=record["digest"][:36],
            source_type="local" if "://" not in record["source"] else record["source"].partition("://")[0],
            source=json.dumps({"uri": record["source"]}),
            schema=json.dumps({"mlflow_colspec": columns}) if columns else None,
            profile=json.dumps(record["profile"]) if record["profile"] else None,
        )
        tag = InputTag("mlflow.data.context", record["context"])
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, [tag])])


def _metrics(record: Record) -> "list[Metric]":
    from mlflow.entities import Metric

    return [
        Metric(_clean_key(key), value, record["time_ms"], record["step"])
        for key, value in record["values"].items()
    ]


def _clean_key(key: str) -> str:
    """Replace the characters of a key that MLflow does not allow."""
    return re.sub(r"[^\w\-. :/]", "_", key)


def _clean_keys(values: dict[str, str]) -> dict[str, str]:
    return {_clean_key(key): value for key, value in values.items()}


def _title(record: Record) -> str:
    return str(record.get("artifact") or record.get("name") or record.get("folder") or "")
