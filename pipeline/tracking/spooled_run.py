"""The tracked run: each call appends to its spool and returns at once."""

import json
import logging
import os
import shutil
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from datamodules.files import write_whole
from pipeline import processes
from pipeline.errors import TrackingError
from pipeline.tracking.describe import describe, final_values, result_name, result_table, without_ends
from pipeline.tracking.links import run_url
from pipeline.tracking.options import Store, TrackingOptions, resolve_store
from pipeline.tracking.places import kept_path, kept_uri
from pipeline.tracking.provenance import collect_provenance
from pipeline.tracking.redaction import Redactor, flatten
from pipeline.tracking.run import DatasetContext, DatasetRecord, EndStatus, Run, RunCard
from pipeline.tracking.spool import FILES, POINTS, Progress, Spool, lane_file, logged_points, now_ms
from pipeline.tracking.system import peak_memory
from pipeline.tracking.writer_process import WriterProcess

logger = logging.getLogger(__name__)

#: The first part of a metric's name -> the data set that it was measured on.
_MEASURED_ON: Mapping[str, DatasetContext] = {"train": "train", "val": "validation", "test": "test"}


class SpooledRun(Run):
    """A run whose calls append records to its spool, from which a separate process sends them to MLflow."""

    def __init__(
        self,
        card: RunCard,
        *,
        store: Store,
        options: TrackingOptions,
        run_folder: Path,
        project_folder: Path,
        environ: Mapping[str, str],
    ) -> None:
        self._folder = (run_folder / "tracking").absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._card, self._store, self._options = card, store, options
        self._redactor = Redactor(environ)
        self._progress = Progress.load(self._folder)
        self._check_same_store()
        self._known_points = logged_points(self._folder)
        self._points = Spool(lane_file(self._folder, POINTS))
        self._files = Spool(lane_file(self._folder, FILES))
        self._local_id = self._keep_local_id()
        self._datasets: list[tuple[DatasetContext, DatasetRecord]] = []
        self._ended = False
        self._note = ""
        self._provenance = collect_provenance(
            project_folder, argv=sys.argv, seed=card.seed, redactor=self._redactor
        )
        self._config: dict[str, Any] = self._redactor.value("", card.config)
        self._open()
        self._writer = WriterProcess(
            self._folder,
            self._session,
            store.uri,
            system_metrics=options.system_metrics,
            environ=environ,
        )

    def _kept_root(self) -> str | None:
        root = self._store.artifact_root
        return None if root is None else kept_path(root, self._folder.parent)

    def _check_same_store(self) -> None:
        known, chosen = self._progress.uri, self._store.public_uri
        if known is not None and known != chosen:
            raise TrackingError(
                f"this run is tracked in {known}, not in {chosen}",
                "the same store when a run is resumed",
                f"set tracking.uri={known}, or start a new run",
            )

    def _keep_local_id(self) -> str:
        file = self._folder / "local_id"
        if not file.exists():
            write_whole(file, uuid.uuid4().hex)
        return file.read_text(encoding="utf-8")

    def _open(self) -> None:
        """Append the record that starts a run, or reopens it."""
        self._session = uuid.uuid4().hex
        card, redact = self._card, self._redactor
        given = {**self._provenance, **card.tags, **self._options.tags}
        tags = {k: redact.value(k, str(v)) for k, v in given.items()}
        tags |= {
            "stage": card.stage,
            "local_id": self._local_id,
            "mlflow.source.name": f"python -m pipeline {card.stage}",
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": self._provenance["git_commit"],
            "mlflow.note.content": self._description({}),
        }
        start = {
            "kind": "start",
            "time_ms": now_ms(),
            "session": self._session,
            "local_id": self._local_id,
            "name": redact.text(card.name),
            "experiment": self._options.experiment_of(card),
            "uri": kept_uri(self._store.public_uri, self._folder.parent),
            "artifact_root": self._kept_root(),
            "params": flatten(self._config),
            "tags": tags,
        }
        self._points.append(start)
        config_text = yaml.safe_dump(json.loads(json.dumps(self._config, default=str)), allow_unicode=True)
        self.log_text(config_text, "config.yaml")
        self.log_text(json.dumps(self._provenance, indent=2, ensure_ascii=False), "provenance.json")

    @property
    @override
    def run_id(self) -> str:
        return self._known().run_id or self._local_id

    @property
    @override
    def url(self) -> str | None:
        known = self._known()
        if not known.run_id or not known.experiment_id:
            return None
        return run_url(self._store.public_uri, known.experiment_id, known.run_id)

    @property
    @override
    def provenance(self) -> Mapping[str, str]:
        return self._provenance

    def _known(self) -> Progress:
        if not self._progress.run_id:
            self._progress = Progress.load(self._folder)
        return self._progress

    @override
    def wait_until_known(self, timeout_s: float = 5.0) -> bool:
        deadline = time.monotonic() + timeout_s
        while not self._known().run_id and time.monotonic() < deadline:
            time.sleep(0.02)
        return self._known().run_id is not None

    @override
    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._log({key: v for key, v in values.items() if (key, step) not in self._known_points}, step)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        numbers = {key: float(value) for key, value in without_ends(values).items()}
        if numbers:
            self._points.append({"kind": "metrics", "time_ms": now_ms(), "step": step, "values": numbers})

    @override
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        texts = {key: self._redactor.value(key, str(value)) for key, value in tags.items()}
        self._points.append({"kind": "tags", "tags": texts})

    @override
    def log_dataset(self, dataset: DatasetRecord, context: DatasetContext) -> None:
        self._datasets.append((context, dataset))
        plain = self._redactor.value("", {**asdict(dataset), "name": dataset_name(dataset.name, context)})
        self._files.append({"kind": "dataset", "context": context, **plain})

    @override
    def log_text(self, text: str, artifact: str) -> None:
        try:
            staged = self._staged(artifact)
            write_whole(staged, self._redactor.text(text))
        except OSError as error:
            logger.warning("tracking: %s cannot be saved (%s)", artifact, error)
            return
        self._files.append({"kind": "file", "artifact": artifact})

    @override
    def log_file(self, path: Path, artifact: str) -> None:
        try:
            shutil.copyfile(path, self._staged(artifact))
        except OSError as error:
            logger.warning("tracking: %s cannot be saved (%s)", path, error)
            return
        self._files.append({"kind": "file", "artifact": artifact})

    def _staged(self, artifact: str) -> Path:
        staged = self._folder / "files" / artifact
        staged.parent.mkdir(parents=True, exist_ok=True)
        return staged

    @override
    def log_bundle(
        self,
        folder: Path,
        *,
        name: str,
        step: int,
        metrics: Mapping[str, float],
    ) -> None:
        values = {result_name(key): float(value) for key, value in without_ends(metrics).items()}
        # Logged before the model, which reuses this point and its time, and not again at the end of the run.
        tested = {key: value for key, value in values.items() if key not in metrics}
        self.log_metrics(tested, 0)
        self._known_points |= {(key, 0) for key in tested}
        record = {
            "kind": "bundle",
            "time_ms": now_ms(),
            "folder": kept_path(folder, self._folder.parent),
            "name": name,
            "step": step,
            "metrics": values,
            "datasets": {split: self._dataset_named(context) for split, context in _MEASURED_ON.items()},
            "params": flatten(self._config),
            "tags": {
                "stage": self._card.stage,
                "run_name": self._redactor.text(self._card.name),
                "mlflow.note.content": result_table(metrics),
            },
        }
        self._files.append(record)

    def _dataset_named(self, context: DatasetContext) -> dict[str, str] | None:
        for known, dataset in reversed(self._datasets):
            if known == context:
                return {"name": dataset_name(dataset.name, context), "digest": dataset.digest[:36]}
        return None

    @override
    def use_bundle(self, folder: Path) -> None:
        self._files.append({"kind": "use_bundle", "folder": kept_path(folder, self._folder.parent)})

    @override
    def describe(self, note: str) -> None:
        self._note = f"{note}\n\n"

    def _description(self, results: Mapping[str, float]) -> str:
        datasets = [f"{context}: {d.name} ({d.digest[:12]})" for context, d in self._datasets]
        return self._redactor.text(
            self._note
            + describe(
                self._card.stage,
                config=self._config,
                datasets=datasets,
                results=results,
                provenance=self._provenance,
            )
        )

    @override
    def end(self, status: EndStatus = "FINISHED", results: Mapping[str, float] | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        results = dict(results or {})
        # A metric with a single point at step 0 is drawn as a bar for each run, which is how MLflow compares
        # results.
        if status != "KILLED":  # a killed run can still be resumed
            self._log(peak_memory(), 0)
        self.log_metrics(final_values(results), 0)
        self.set_tags({"mlflow.note.content": self._description(results)})
        self._points.append(
            {
                "kind": "end",
                "time_ms": now_ms(),
                "session": self._session,
                "status": status,
                "results": results,
            }
        )
        self._points.close()
        self._files.close()
        self._writer.finish(self._options.end_wait_s)
        self._progress = Progress.load(self._folder)


def start_run(
    card: RunCard,
    *,
    options: TrackingOptions,
    run_folder: Path,
    project_folder: Path,
    environ: Mapping[str, str] | None = None,
) -> Run:
    """Start a run, or resume the one in `run_folder` (same id, RUNNING again), without waiting for the store.

    Only the first rank tracks; all others get a run whose calls do nothing.

    Raises:
        TrackingError: if the URI of the store is invalid (a plain folder, an unknown kind), or is not the one
            that the run was started with.
    """
    environ = os.environ if environ is None else environ
    if not options.enabled or processes.rank(environ) != 0:
        return Run()
    store = resolve_store(options.uri, project_folder=project_folder, environ=environ)
    return SpooledRun(
        card,
        store=store,
        options=options,
        run_folder=run_folder,
        project_folder=project_folder,
        environ=environ,
    )


def dataset_name(name: str, context: str) -> str:
    """Return the name of a data set as an input; MLflow keeps only one input for each name and digest."""
    return name if context == "train" else f"{name}:{context}"
