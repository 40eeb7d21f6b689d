"""What a fine-tuning ends with: scores, answers beside the truth, and the gain over training from nothing."""

import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline import report
from pipeline.bundle import Bundle, is_finished
from pipeline.config import NOTHING, to_plain
from pipeline.evaluation import Evaluation
from pipeline.runs import RunFolder, list_runs
from pipeline.settings import with_defaults
from pipeline.tracking import Run

#: Two runs with these in common differ in their start alone.
SAME = ("task", "data", "trainer", "optimizer", "schedule", "freezing", "size", "model.backbone._target_")


def summarise(
    config: DictConfig, run: RunFolder, tracked: Run, bundle: Bundle, evaluation: Evaluation
) -> None:
    """Print the summary."""
    task = config.choices.task
    facts = {
        "measured on": f"{len(evaluation.rows):,} held-out rows of {config.choices.data}",
        "validation loss": f"{bundle.metrics['val/loss']:.4f} nats",
        "bundle": report.short(bundle.folder),
        "best step": f"{bundle.provenance['step']:,}",
    }
    if (gain := gain_over_nothing(config, run, bundle, evaluation)) is not None:
        facts["gain over nothing"] = gain
    report.summary(
        f"{run.name}: done",
        metrics={},
        scores=evaluation.scores,
        facts=facts,
        samples=evaluation.samples,
        next_commands={
            f"make try-{task}": "ask this model yourself",
            f"make predict-{task} INPUT=rows.jsonl": "answer a file of rows",
            f"make evaluate-{task} DATA=...": "measure it on another corpus",
            "make ui": "compare runs in MLflow",
        },
        address=tracked.url,
    )


def gain_over_nothing(
    config: DictConfig, run: RunFolder, bundle: Bundle, evaluation: Evaluation
) -> str | None:
    """The score beside that of the newest run that differs in its start alone, and began from nothing."""
    if config.init_from == NOTHING:
        return None
    for other in list_runs(run.path.parent):
        if other.name == run.name or not other.is_of("finetune", config.choices.task):
            continue
        if is_finished(other.bundles / "best") and _differs_in_start(config, other):
            name = f"test/{evaluation.task.metric}"
            before = _metrics(other)[name]
            gain = bundle.metrics[name] - before
            return f"{gain:+.4f} {evaluation.task.metric} (from nothing {before:.4f}, {other.name})"
    return None


def _differs_in_start(config: DictConfig, other: RunFolder) -> bool:
    ours, theirs = OmegaConf.create(with_defaults(config)), OmegaConf.load(other.path / "config.yaml")
    if _plain(theirs, "init_from") != NOTHING:
        return False
    return all(_plain(ours, key) == _plain(theirs, key) for key in SAME)


def _plain(config: Any, key: str) -> Any:
    return to_plain(OmegaConf.select(config, key))


def _metrics(run: RunFolder) -> Mapping[str, float]:
    return json.loads((run.bundles / "best" / "metrics.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]
