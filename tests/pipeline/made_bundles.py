"""Run folders with bundles that are whole by their hashes, made without training."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.tokenizer import Bytes
from pipeline.evaluation.rows import EVALUATION
from pipeline.runs import bundle

CODE = {"git_commit": "0123456789abcdef" * 2, "git_dirty": "false", "python": "3.11"}


def make_run(folder: Path, *, stage: str = "finetune", status: str = "FINISHED", **choices: str) -> Path:
    """A run folder with its record and its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "name": folder.name,
        "stage": stage,
        "config_hash": "0",
        "created": "2026-01-01T00:00:00+00:00",
        "status": status,
        "choices": {"task": "classify", **choices},
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text("bundle: latest\nchoices: {task: classify}\n")
    return folder


def make_bundle(
    run: Path,
    *,
    stage: str = "finetune",
    name: str = "best",
    parent: Path | None = None,
    sources: Sequence[Path] = (),
    metrics: Mapping[str, float] | None = None,
    weights: bytes = b"weights",
) -> Path:
    """A finished run with a finished bundle; `parent` is the bundle that it says it started from."""
    make_run(run, stage=stage)
    folder = run / "bundles" / name
    folder.mkdir(parents=True)
    tokenizer = Bytes().train([])
    tokenizer.save(folder / "tokenizer.json")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.yaml").write_text("choices: {task: classify}\n")
    write(folder / "model.json", {})
    write(folder / "task.json", {"_target_": "pipeline.tasks.classify.TextClassification"})
    write(folder / "metrics.json", dict(metrics or {"test/accuracy": 0.5}))
    write(folder / "provenance.json", _provenance(run, stage, tokenizer.digest, parent, sources))
    finish(folder)
    return folder


def finish(folder: Path) -> None:
    """Write the hashes of what is there."""
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in bundle.FILES}
    write(folder / bundle.DONE, hashes)


def make_evaluation(
    run: Path, scores: Sequence[float], *, rows: str = "row", metric: str = "accuracy", **more: Any
) -> None:
    """What each row scored, as `pipeline.evaluation.rows` keeps it."""
    mean = sum(scores) / len(scores)
    record = {
        "task": "TextClassification",
        "metric": metric,
        "higher_is_better": True,
        "corpus": "corpus",
        "split": "test",
        "metrics": {metric: {"value": mean, "low": mean - 0.01, "high": mean + 0.01}},
        "row_metric": metric,
        "rows": [f"{rows}{i}" for i in range(len(scores))],
        "row_scores": list(scores),
        **more,
    }
    write(run / EVALUATION, record)


def write(file: Path, value: Any) -> None:
    """As JSON."""
    file.write_text(json.dumps(value))


def _provenance(
    run: Path, stage: str, tokenizer: str, parent: Path | None, sources: Sequence[Path]
) -> dict[str, Any]:
    found = {
        "run": run.name,
        "stage": stage,
        "seed": 7,
        "step": 20,
        "code": CODE,
        "tokenizer": tokenizer,
        "measured_on": {"corpus": "reviews", "split": "test", "chose_weights": False, "rows": 200},
        "corpus": {
            "name": "corpus",
            "fingerprint": "f" * 64,
            "sources": [
                {"uri": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "split": "train"}
                for file in sources
            ],
        },
    }
    if parent is not None:
        found["parent"] = {
            "run": parent.parent.parent.name,
            "bundle": str(parent),
            "digest": bundle.digest(parent),
            "provenance": json.loads((parent / "provenance.json").read_text()),
        }
    return found
