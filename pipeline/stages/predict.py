"""Answer a file of rows with a fine-tuned bundle."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from datamodules.corpus import Columns, read_rows
from pipeline import build, report
from pipeline.errors import ConfigError, RunError
from pipeline.evaluation import N_SAMPLES, as_record
from pipeline.finetuned import asked_task, load_asked
from pipeline.stages.result import StageResult
from pipeline.tasks.finetuning import Prediction, Row

#: Added to the input's name where no output is named.
SUFFIX = ".predictions.jsonl"


def predict(config: DictConfig) -> StageResult:
    """Write each row with the model's answer, one JSON object a line, and show the first."""
    if config.input is None:
        raise ConfigError("no input", "a file of rows (.jsonl, .csv, .parquet, ...)", "give INPUT=rows.jsonl")
    source = Path(config.input)
    target = Path(config.output or source.with_name(source.name.split(".")[0] + SUFFIX))
    bundle = load_asked(config)
    task = asked_task(config, bundle)
    columns = Columns(task.inputs, (*task.truths, *task.optional))
    rows = read_rows(source, dict(config.columns or {}), columns).to_list()
    report.say("Rows", f"{len(rows):,} of {source}")
    batch_size = build.construct(config.trainer).batch_size
    answers = task.predict(bundle.model, bundle.tokenizer, rows, batch_size=batch_size)
    _write(target, rows, answers)
    shown = [task.sample(row, answer) for row, answer in zip(rows[:N_SAMPLES], answers, strict=False)]
    report.panel("Answers", report.show_samples(shown))
    report.say("Written", f"{target} ({len(rows):,} lines, each row with its 'prediction')")
    return StageResult(stage="predict", bundle=str(bundle.folder), output=[str(target)])


def _write(target: Path, rows: Sequence[Row], answers: Sequence[Prediction]) -> None:
    """All lines or no file."""
    draft = target.with_name(f".{target.name}.draft")
    try:
        with draft.open("w", encoding="utf-8") as file:
            for row, answer in zip(rows, answers, strict=True):
                file.write(json.dumps(as_record(row, answer), ensure_ascii=False) + "\n")
        os.replace(draft, target)
    except OSError as error:
        raise RunError(
            f"cannot write {target} ({error.strerror})", "a folder that can be written", "give OUTPUT=PATH"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
