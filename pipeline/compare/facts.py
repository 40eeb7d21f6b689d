"""Read the facts about a run from its folder. What is missing is left out, and named in a note."""

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
from pipeline.runs.bundle import is_finished
from pipeline.runs.folders import RunFolder
from pipeline.tasks.base import Sample
from pipeline.tasks.finetuning import Score
from pipeline.tracking.places import found_path
from pipeline.tracking.redaction import Redactor, flatten
from pipeline.tracking.spool import FILES, POINTS, Progress, lane_file, read_records, records_of

#: Samples that a run recorded because texts of its corpus may be shown.
SHOWN_SAMPLES = ("test.md", "validation.md", "best.md")

#: The format of `report.samples_markdown`, today's and a former one.
_SAMPLE = re.compile(
    r"(?:Input|Given): (?P<given>.*?)\n\n(?:Prediction|Made): (?P<output>.*?)"
    r"(?:\n\n(?:Target|Truth): (?P<target>.*))?",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The score of each row; `prefix` is the prefix of the recorded metrics.

    `chose_weights`: the best weights were selected on these rows.
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
    """What a run cost; None: not known."""

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
    """Read everything that is known about a run."""
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
    """Read what `pipeline.evaluation.rows` saved; None if there is nothing, or something else."""
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
            # A fine-tuning once called its validation metrics `test/` where there were no test rows.
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
    """The resolved configuration without secrets; a bundle's task keeps its options unless typed."""
    config = without_training(mapping_in(run.path / "config.yaml"))
    trained = mapping_in(bundle / "config.yaml").get("task")
    if "bundle" in config and isinstance(trained, Mapping):
        config["task"] = {**trained, **(config.get("task") or {})}
    return dict(Redactor(os.environ).value("", config))


def _bundle_of(run: RunFolder, history: History) -> Path:
    """The bundle that a run wrote; for a run that did not train, the one that it measured."""
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
    """What is missing, as predicates that follow the run's name."""
    notes = []
    if run.record.status != "FINISHED":
        notes.append(f"has not finished ({run.record.status}): its numbers are the last that it logged")
    if not is_finished(bundle):
        notes.append(
            "has no bundle that can be found, so facts that only a bundle has, such as its size, are missing"
        )
    if not is_measured and any(key.startswith("test/") for key in metrics):
        notes.append("has no scores per row: evaluate it again to have its differences tested")
    if not history.points:
        unknown = "its curves" if cost.tokens is not None else "its curves and its cost"
        notes.append(f"was not tracked: {unknown} are not known")
    return notes


def _task(config: Mapping[str, Any], bundle: Path, measurement: Measurement | None) -> str | None:
    """The name of the task's class."""
    named = [select(config, "task._target_"), mapping_in(bundle / "task.json").get("_target_")]
    targets = [name.rpartition(".")[2] for name in named if isinstance(name, str)]
    return measurement.task if measurement else next(iter(targets), None)


def _metrics(run: RunFolder, measurement: Measurement | None) -> dict[str, Score]:
    """The metrics of the bundle, or else those at the end of the run; and what was measured afterwards."""
    recorded = mapping_in(run.bundles / "best" / "metrics.json")
    values = {key: value for key, value in recorded.items() if isinstance(value, int | float)}
    if not values:
        values = _said_at_its_end(run.path)
    ends = {f"{key}_{end}" for key in values for end in ("low", "high")}
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


def _said_at_its_end(folder: Path) -> dict[str, float]:
    ends = list(records_of(lane_file(folder / "tracking", POINTS), "end"))
    return dict(ends[-1].get("results", {})) if ends else {}


def _cost(run: RunFolder, bundle: Path, history: History) -> Cost:
    """As it was tracked; else as the bundle that it trained has recorded it."""
    own = mapping_in(run.bundles / "best" / "provenance.json")
    seconds, tokens = (
        _number(select(own, f"cost.{name}")) if tracked is None else tracked
        for name, tracked in (("seconds", history.last(SECONDS)), ("tokens", history.last(TOKENS)))
    )
    memory, gpu = (history.last(f"system/{key}_megabytes") for key in ("peak_memory", "peak_gpu_memory"))
    return Cost(
        seconds=seconds if seconds is not None else _lived_s(run.path),
        tokens=tokens,
        parameters=_count_parameters(bundle / "model.safetensors"),
        flops=history.last(FLOPS),
        peak_bytes=None if memory is None else memory * 1e6,
        peak_gpu_bytes=None if gpu is None else gpu * 1e6,
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _lived_s(folder: Path) -> float | None:
    """Seconds from start to end, for a run that did not train."""
    times = [
        record["time_ms"]
        for record, _ in read_records(lane_file(folder / "tracking", POINTS), 0)
        if record is not None and "time_ms" in record
    ]
    return (max(times) - min(times)) / 1000 if times else None


def _count_parameters(weights: Path) -> int | None:
    """Count parameters from the file's header, without reading a weight."""
    try:
        with safe_open(str(weights), framework="np") as file:
            return sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return None


def _provenance(run: RunFolder, bundle: Path) -> dict[str, str]:
    """Code, versions, machine and inputs."""
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
    """The samples that the run generated."""
    file = next((file for file in (run.path / SAMPLES, *_shown_samples(run)) if file.is_file()), None)
    if file is None:
        return []
    text = Redactor(os.environ).text(file.read_text(encoding="utf-8"))
    blocks = re.split(r"^## \d+\n\n", text, flags=re.MULTILINE)[1:]
    return [_sample(block.strip()) for block in blocks]


def _shown_samples(run: RunFolder) -> list[Path]:
    """The samples that the run recorded, the last first."""
    folder = run.path / "tracking" / FILES / "samples"
    return [file for name in SHOWN_SAMPLES if (file := folder / name).is_file()]


def _sample(block: str) -> Sample:
    """Parse a block written by `report.samples_markdown`."""
    if (parts := _SAMPLE.fullmatch(block)) is not None:
        return Sample(given=parts["given"], output=parts["output"], target=parts["target"])
    given = re.match(r"\*\*(.+?)\*\*", block, re.DOTALL)
    if given is None:
        return Sample(given="", output=block, goes_on=True)
    return Sample(given=given[1], output=block[given.end() :], goes_on=True)
