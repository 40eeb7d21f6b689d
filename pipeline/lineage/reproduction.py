"""Find a run to repeat, and compare the results of both runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.compare.facts import read_measurement
from pipeline.config.check import check
from pipeline.config.plain import Config, select
from pipeline.errors import RunError
from pipeline.evaluation.rows import EVALUATION, recorded
from pipeline.files import read_yaml
from pipeline.runs import bundle
from pipeline.runs.folders import MAX_NAME_LENGTH, RunFolder, list_runs, made_bundle
from pipeline.runs.stored import read_part

#: Metrics of the machine, not of the model.
OF_THE_MACHINE = ("tokens_per_second", "mfu", "wall_s", "seconds")
SUFFIX = "-again"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of a run: its metrics, the hash of its weights, and its inputs."""

    metrics: Mapping[str, float]
    weights: str | None
    origin: Mapping[str, str]


def find_run(spec: str, runs_dir: Path) -> RunFolder:
    """Return the finished run with this name or folder.

    Raises:
        RunError: if there is no such run, or it is not finished.
    """
    runs = list_runs(runs_dir)
    found = [run for run in runs if spec.rstrip("/") in (run.name, str(run.path), str(run.path.absolute()))]
    finished = ", ".join(run.name for run in runs if _has_metrics(run)) or "none yet"
    if not found:
        raise RunError(
            f"there is no run '{spec}' in {runs_dir}", f"a finished run ({finished})", "give RUN=NAME"
        )
    if found[0].record.status != "FINISHED":
        raise RunError(
            f"{found[0].path} is {found[0].record.status}",
            f"a finished run ({finished})",
            "finish it with RESUME=1, or name another run",
        )
    return found[0]


def _has_metrics(run: RunFolder) -> bool:
    measured = bundle.is_finished(run.bundles / "best") or (run.path / EVALUATION).exists()
    return measured and run.record.status == "FINISHED"


def recorded_config(run: RunFolder, own: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration for repeating a run under another name.

    `own` overrides the recorded options, since the run may come from another machine, and the user decides
    where it is tracked and cached.

    Raises:
        RunError: if the configuration cannot be read.
        ConfigError: if this version of the code has different keys.
    """
    file = run.path / "config.yaml"
    try:
        plain = read_yaml(file)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file} cannot be read ({error})",
            "the configuration that the run recorded",
            "name another run with RUN=NAME",
        ) from error
    name = f"{run.name[: MAX_NAME_LENGTH - len(SUFFIX)]}{SUFFIX}"
    changed = {**plain, **(own or {}), "name": name, "runs_dir": str(run.path.parent)}
    if "resume" in plain:
        changed["resume"] = False
    if "pipeline_id" in plain:
        changed["pipeline_id"] = None  # the repeated run is not a step of that pipeline
    config = Config(changed)
    check(config)
    return config


def read_outcome(run: RunFolder) -> Outcome:
    """Return the results of a run, from its bundle or else its evaluation; empty if both were deleted.

    Raises:
        RunError: if the run never had metrics.
    """
    folder = run.bundles / "best"
    if bundle.is_finished(folder):
        values = read_part(folder, "metrics.json")
        weights = bundle.read_done(folder)["model.safetensors"]
        origin = _origin(read_part(folder, "provenance.json"))
        return Outcome(metrics=_of_the_model(values), weights=weights, origin=origin)
    measurement = read_measurement(run.path)
    if measurement is None and not made_bundle(run):
        raise RunError(
            f"{run.path} has neither a bundle nor an evaluation",
            "a run that measured something: pretrain, finetune or evaluate",
            "name another run with RUN=NAME",
        )
    values = {} if measurement is None else recorded(measurement.metrics, measurement.prefix)
    return Outcome(metrics=_of_the_model(values), weights=None, origin={})


def _of_the_model(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.rpartition("/")[2] not in OF_THE_MACHINE}


def _origin(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the inputs that must be equal for equal metrics, by name."""
    code = {
        key: str(value)
        for key, value in (select(provenance, "code") or {}).items()
        if key not in ("command", "seed")
    }
    return {
        **code,
        "corpus": str(select(provenance, "corpus.fingerprint")),
        "tokenizer": str(provenance.get("tokenizer")),
        "token rows": str(provenance.get("train_rows", "none")),
        "bundle it started from": str(select(provenance, "parent.digest") or "none"),
    }


def changed_metrics(before: Outcome, now: Outcome) -> dict[str, tuple[Any, Any]]:
    """Return the metrics that differ; without a bundle, only the metrics that are left are compared."""
    metrics = now.metrics
    if before.weights is None:
        metrics = {name: value for name, value in metrics.items() if name in before.metrics}
    return differences(before.metrics, metrics)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return name -> (before, now) for values that are not identical to the last digit."""
    names = dict.fromkeys([*before, *now])
    return {
        name: (before.get(name), now.get(name))
        for name in names
        if repr(before.get(name)) != repr(now.get(name))  # so that NaN equals NaN, and 0.0 differs from -0.0
    }
