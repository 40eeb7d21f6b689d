"""Answer a file of rows with a fine-tuned bundle."""

import errno
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

#: Written beside the answer where the input has it, as are all columns that are mapped.
KEPT = "id"


def predict(config: DictConfig) -> StageResult:
    """Write each row with the model's answer, one JSON object a line, and show the first."""
    if config.input is None:
        raise ConfigError("no input", "a file of rows (.jsonl, .csv, .parquet, ...)", "give INPUT=rows.jsonl")
    source = Path(config.input)
    target = Path(config.output or source.with_name(source.name.split(".")[0] + SUFFIX))
    _check_writable(source, target)
    bundle = load_asked(config)
    task = asked_task(config, bundle)
    names = dict(config.columns or {})
    kept = dict.fromkeys((*task.truths, *task.optional, KEPT, *names))
    columns = Columns(task.inputs, tuple(name for name in kept if name not in task.inputs))
    rows = list(read_rows(source, names, columns))
    report.say("Rows", f"{len(rows):,} of {source}")
    batch_size = build.construct(config.trainer).batch_size
    answers = task.predict(bundle.model, bundle.tokenizer, rows, batch_size=batch_size)
    _write(target, rows, answers)
    shown = [task.sample(row, answer) for row, answer in zip(rows[:N_SAMPLES], answers, strict=False)]
    report.panel("Answers", report.show_samples(shown))
    report.say("Written", f"{target} ({len(rows):,} lines, each row with its 'prediction')")
    return StageResult(stage="predict", bundle=str(bundle.folder), output=[str(target)])


def _check_writable(source: Path, target: Path) -> None:
    """Prove that the answers can be written, before there are any."""
    if target.resolve() == source.resolve():
        raise ConfigError(f"output={target} is the input", "another file", "give OUTPUT=PATH")
    draft = _draft_of(target)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise _cannot_write(target, error) from error


def _write(target: Path, rows: Sequence[Row], answers: Sequence[Prediction]) -> None:
    """All lines or no file."""
    draft = _draft_of(target)
    try:
        with draft.open("w", encoding="utf-8") as file:
            for row, answer in zip(rows, answers, strict=True):
                file.write(json.dumps(as_record(row, answer), ensure_ascii=False) + "\n")
        os.replace(draft, target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        draft.unlink(missing_ok=True)


def _draft_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.draft")


def _cannot_write(target: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot write {target} ({error.strerror})",
        "a file in a folder that can be written",
        "give OUTPUT=PATH",
    )
