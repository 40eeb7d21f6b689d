"""Run folders as stages leave them, written in a moment."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

TASKS = {
    "classify": "pipeline.tasks.classify.TextClassification",
    "qa": "pipeline.tasks.qa.ExtractiveQA",
    "causal_lm": "pipeline.tasks.causal_lm.CausalLM",
}


def make_run(
    runs_dir: Path,
    name: str,
    *,
    stage: str = "finetune",
    task: str = "classify",
    data: str = "reviews",
    scores: Sequence[float] | None = (1.0, 0.0, 1.0),
    rows: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    created: str = "2026-01-01T00:00:00+00:00",
    run_id: str | None = None,
    config: Mapping[str, Any] | None = None,
    steps: int = 5,
    split: str = "test",
) -> Path:
    """A finished run with a bundle (without weights), a spool and scores row by row."""
    folder = runs_dir / name
    bundle = folder / "bundles" / "best"
    bundle.mkdir(parents=True)
    record = {"name": name, "stage": stage, "config_hash": "x", "created": created, "status": "FINISHED"}
    _write(folder / "run.json", {**record, "choices": {"task": task, "data": data}})
    settings = {"task": {"_target_": TASKS[task]}, "trainer": {"max_steps": steps}, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    _write(bundle / "metrics.json", _metrics(scores, metrics))
    _write(bundle / "task.json", {"_target_": TASKS[task]})
    _write(bundle / "provenance.json", {"run": name, "step": steps, "tokenizer": "t", "validation_rows": "v"})
    _write(bundle / "DONE", {})
    if scores is not None:
        _write(folder / "evaluation.json", evaluation(scores, rows, data, split))
    _spool(folder / "tracking", steps, run_id)
    return folder


def evaluation(scores: Sequence[float], rows: Sequence[str] | None, data: str, split: str) -> dict[str, Any]:
    mean = sum(scores) / len(scores)
    return {
        "task": "TextClassification",
        "metric": "accuracy",
        "higher_is_better": True,
        "corpus": data,
        "split": split,
        "metrics": {"accuracy": {"value": mean, "low": mean - 0.1, "high": mean + 0.1}},
        "row_metric": "accuracy",
        "rows": list(rows or [f"row {i}" for i in range(len(scores))]),
        "row_scores": list(scores),
    }


def _metrics(scores: Sequence[float] | None, metrics: Mapping[str, float] | None) -> Mapping[str, float]:
    if metrics is not None:
        return metrics
    return {"val/loss": 1.0} if scores is None else {"test/accuracy": sum(scores) / len(scores)}


def _spool(folder: Path, steps: int, run_id: str | None) -> None:
    folder.mkdir()
    lines: list[dict[str, Any]] = [{"kind": "start", "time_ms": 0, "session": "s"}]
    for step in range(1, steps + 1):
        values = {
            "train/loss": 1 / step,
            "val/loss": 2 / step,
            "tokens_seen": 100.0 * step,
            "wall_s": step / 2,
        }
        lines.append({"kind": "metrics", "time_ms": step, "step": step, "values": values})
    (folder / "points.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if run_id is not None:
        _write(
            folder / "progress.json",
            {"run_id": run_id, "experiment_id": "1", "uri": "sqlite:////x/mlflow.db"},
        )


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")
