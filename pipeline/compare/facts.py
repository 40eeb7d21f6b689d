"""Read the facts about a run from its folder. Missing facts are left out, and mentioned in a note."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from pipeline.compare.curves import FLOPS, SECONDS, TOKENS, Floats, History
from pipeline.config.plain import select
from pipeline.config.recorded import without_training
from pipeline.evaluation.rows import EVALUATION, SAMPLES
from pipeline.files import mapping_in
from pipeline.runs.adapters import ADAPTER
from pipeline.runs.bundle import is_finished
from pipeline.runs.folders import RunFolder
from pipeline.tasks.base import Sample
from pipeline.tasks.finetuning import Score
from pipeline.tracking.places import found_path
from pipeline.tracking.redaction import Redactor, flatten
from pipeline.tracking.spool import FILES, POINTS, Progress, lane_file, read_records, records_of

#: Files of samples that a run recorded if the user allows to show texts of its corpus.
SHOWN_SAMPLES = ("test.md", "validation.md", "best.md")

#: The format of `report.samples_markdown`, current and former.
_SAMPLE = re.compile(
    r"(?:Input|Given): (?P<input>.*?)\n\n(?:Prediction|Made): (?P<output>.*?)"
    r"(?:\n\n(?:Target|Truth): (?P<target>.*))?",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """An evaluation, with the score of each row.

    `prefix` is the prefix of the recorded metrics; `chose_weights` tells whether the best weights were
    selected on these rows.
    """

    task: str
    corpus: str
    split: str
    prefix: str
    chose_weights: bool
    metric: str | None
    higher_is_better: bool
    row_metric: str | None
    metrics: Mapping[str, Score]
    rows: list[str]
    row_scores: Floats


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a run; None: not known."""

    seconds: float | None
    tokens: float | None
    parameters: int | None
    flops: float | None
    peak_bytes: float | None
    peak_gpu_bytes: float | None


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The facts about one run that a comparison uses."""

    name: str
    folder: Path
    stage: str
    task: str | None
    word: str
    status: str
    created: str
    config: Mapping[str, str]
    metrics: Mapping[str, Score]
    measurement: Measurement | None
    history: History
    cost: Cost
    provenance: Mapping[str, str]
    samples: list[Sample]
    may_show_text: bool
    tracked: Progress
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Stage and task, as a user types them."""
        return f"{self.stage} {self.word}".strip()


def read_facts(run: RunFolder) -> RunFacts:
    """Read all facts about a run."""
    history = History.read(run.path)
    bundle = _bundle_of(run, history)
    config = _config(run, bundle)
    measurement = read_measurement(run.path)
    metrics = _metrics(run, measurement)
    cost = _cost(run, bundle, history)
    return RunFacts(
        name=run.name,
        folder=run.path,
        stage=run.record.stage,
        task=(task := _task(config, bundle, measurement)),
        word=(run.record.choices or {}).get("task") or task or "",
        status=run.record.status,
        created=run.record.created,
        config=flatten(config),
        metrics=metrics,
        measurement=measurement,
        history=history,
        cost=cost,
        provenance=_provenance(run, bundle),
        samples=_samples(run),
        may_show_text=bool(config.get("log_corpus_text")) or bool(_shown_samples(run)),
        tracked=Progress.load(run.path / "tracking"),
        notes=_notes(run, bundle, metrics, history, cost, is_measured=measurement is not None),
    )


def read_measurement(folder: Path) -> Measurement | None:
    """Read the evaluation that `pipeline.evaluation.rows` saved, or return None if there is no valid one."""
    record = mapping_in(folder / EVALUATION)
    try:
        is_validation = record["split"] == "validation"
        scores = np.array(record.get("row_scores", []), np.float64)
        if scores.shape != (len(record.get("rows", [])),):
            return None
        return Measurement(
            task=record["task"],
            corpus=record["corpus"],
            split=record["split"],
            # Older versions named validation metrics `test/` if there were no test rows.
            prefix=record.get("prefix", "val" if is_validation else "test"),
            chose_weights=record.get("chose_weights", is_validation),
            metric=record.get("metric"),
            higher_is_better=record.get("higher_is_better", True),
            row_metric=record.get("row_metric"),
            metrics={name: Score(**score) for name, score in record["metrics"].items()},
            rows=record.get("rows", []),
            row_scores=scores,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _config(run: RunFolder, bundle: Path) -> dict[str, Any]:
    """Return the configuration without secrets; the task has the bundle's options, unless overridden."""
    config = without_training(mapping_in(run.path / "config.yaml"))
    trained = mapping_in(bundle / "config.yaml").get("task")
    if "bundle" in config and isinstance(trained, Mapping):
        config["task"] = {**trained, **(config.get("task") or {})}
    return dict(Redactor(os.environ).value("", config))


def _bundle_of(run: RunFolder, history: History) -> Path:
    """Return the bundle that a run wrote, or the one that it evaluated."""
    used = [
        found_path(record["folder"], run.path)
        for record in records_of(lane_file(run.path / "tracking", FILES), "use_bundle")
    ]
    own = run.bundles / "best"
    return used[-1] if used and TOKENS not in history.points and not own.exists() else own


def _notes(
    run: RunFolder,
    bundle: Path,
    metrics: Mapping[str, Score],
    history: History,
    cost: Cost,
    *,
    is_measured: bool,
) -> list[str]:
    """Describe missing facts, as predicates that follow the name of the run."""
    notes = []
    if run.record.status != "FINISHED":
        notes.append(f"has not finished ({run.record.status}): its metrics are the last that it logged")
    if not is_finished(bundle):
        notes.append(
            "has no bundle that can be found, so facts that only a bundle has, such as the size, are missing"
        )
    if not is_measured and any(key.startswith("test/") for key in metrics):
        notes.append("has no scores per row: evaluate it again to test its differences for significance")
    if not history.points:
        unknown = "its curves" if cost.tokens is not None else "its curves and its cost"
        notes.append(f"was not tracked: {unknown} are not known")
    return notes


def _task(config: Mapping[str, Any], bundle: Path, measurement: Measurement | None) -> str | None:
    """Return the name of the task's class."""
    named = [select(config, "task._target_"), mapping_in(bundle / "task.json").get("_target_")]
    targets = [name.rpartition(".")[2] for name in named if isinstance(name, str)]
    return measurement.task if measurement else next(iter(targets), None)


def _metrics(run: RunFolder, measurement: Measurement | None) -> dict[str, Score]:
    """Return the metrics of the bundle, or else the final ones of the run, updated by the measurement."""
    recorded = mapping_in(run.bundles / "best" / "metrics.json")
    values = {key: value for key, value in recorded.items() if isinstance(value, int | float)}
    if not values:
        values = _final_results(run.path)
    ends = {f"{key}_{end}" for key in values for end in ("low", "high", "stderr")}
    found = {
        key: Score(value=value, low=values.get(f"{key}_low"), high=values.get(f"{key}_high"))
        for key, value in values.items()
        if key not in ends
    }
    if measurement is not None:
        if measurement.chose_weights:  # under their former names
            found = {key: score for key, score in found.items() if not key.startswith("test/")}
        found |= {f"{measurement.prefix}/{name}": score for name, score in measurement.metrics.items()}
    return found


def _final_results(folder: Path) -> dict[str, float]:
    ends = list(records_of(lane_file(folder / "tracking", POINTS), "end"))
    return dict(ends[-1].get("results", {})) if ends else {}


def _cost(run: RunFolder, bundle: Path, history: History) -> Cost:
    """Return the cost as tracked, or else as recorded in the bundle that the run trained."""
    own = mapping_in(run.bundles / "best" / "provenance.json")
    seconds, tokens = (
        _number(select(own, f"cost.{name}")) if tracked is None else tracked
        for name, tracked in (("seconds", history.last(SECONDS)), ("tokens", history.last(TOKENS)))
    )
    memory, gpu = (history.last(f"system/{key}_megabytes") for key in ("peak_memory", "peak_gpu_memory"))
    return Cost(
        seconds=seconds if seconds is not None else _duration_s(run.path),
        tokens=tokens,
        parameters=_count_parameters(bundle),
        flops=history.last(FLOPS),
        peak_bytes=None if memory is None else memory * 1e6,
        peak_gpu_bytes=None if gpu is None else gpu * 1e6,
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _duration_s(folder: Path) -> float | None:
    """Return the seconds from the first record to the last, for a run that did not train."""
    times = [
        record["time_ms"]
        for record, _ in read_records(lane_file(folder / "tracking", POINTS), 0)
        if record is not None and "time_ms" in record
    ]
    return (max(times) - min(times)) / 1000 if times else None


def _count_parameters(bundle: Path) -> int | None:
    """Count parameters from the header of the file, or read how many an adapter and its base have."""
    if ADAPTER in mapping_in(bundle / "model.json"):
        n_all = _number(select(mapping_in(bundle / "provenance.json"), "cost.parameters"))
        return None if n_all is None else int(n_all)
    try:
        with safe_open(str(bundle / "model.safetensors"), framework="np") as file:
            return sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


def _provenance(run: RunFolder, bundle: Path) -> dict[str, str]:
    """Return code, versions, machine and inputs."""
    facts = mapping_in(bundle / "provenance.json")
    code = mapping_in(run.path / "tracking" / "files" / "provenance.json") or select(facts, "code")
    code = code if isinstance(code, Mapping) else {}
    origin = {
        "git_commit": code.get("git_commit"),
        "git_dirty": code.get("git_dirty"),
        "command": code.get("command"),
        "corpus": select(facts, "corpus.name"),
        "corpus fingerprint": select(facts, "corpus.fingerprint"),
        "validation rows": facts.get("validation_rows"),
        "tokenizer": facts.get("tokenizer"),
        "parent run": select(facts, "parent.run"),
        "best step": facts.get("step"),
        "bundle": str(bundle) if facts else None,
    }
    return {key: str(value) for key, value in {**origin, **code}.items() if value not in (None, "")}


def _samples(run: RunFolder) -> list[Sample]:
    """Return the samples that the run generated."""
    file = next((file for file in (run.path / SAMPLES, *_shown_samples(run)) if file.is_file()), None)
    if file is None:
        return []
    text = Redactor(os.environ).text(file.read_text(encoding="utf-8"))
    blocks = re.split(r"^## \d+\n\n", text, flags=re.MULTILINE)[1:]
    return [_sample(block.strip()) for block in blocks]


def _shown_samples(run: RunFolder) -> list[Path]:
    """Return the files of samples that the run recorded, latest first."""
    folder = run.path / "tracking" / FILES / "samples"
    return [file for name in SHOWN_SAMPLES if (file := folder / name).is_file()]


def _sample(block: str) -> Sample:
    """Parse a block written by `report.samples_markdown`."""
    if (parts := _SAMPLE.fullmatch(block)) is not None:
        return Sample(input=parts["input"], output=parts["output"], target=parts["target"])
    prompt = re.match(r"\*\*(.+?)\*\*", block, re.DOTALL)
    if prompt is None:
        return Sample(input="", output=block, is_continuation=True)
    return Sample(input=prompt[1], output=block[prompt.end() :], is_continuation=True)
