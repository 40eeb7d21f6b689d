"""Predict a file of rows with a fine-tuned model."""

from collections.abc import Sequence
from functools import partial
from glob import has_magic
from pathlib import Path

from datamodules.corpus import Columns, read_rows
from datamodules.corpus.as_text import json_line
from datamodules.corpus.source_file import find_files
from pipeline import progress, report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.errors import ConfigError
from pipeline.evaluation.rows import N_SAMPLES, as_record
from pipeline.machine.options import TrainerOptions
from pipeline.output import check_writable, write_whole
from pipeline.runs.finetuned import asked_task, load_asked, with_trained_names
from pipeline.tasks.finetuning import FinetuneTask, Row

#: Appended to the name of the input to form the default output. Suffixes other than .jsonl are kept, so that
#: rows.csv and rows.jsonl get different outputs.
SUFFIX = ".predictions.jsonl"

#: A column that is copied to the output if the input has it, as are all mapped columns.
KEPT = "id"


def predict(config: Config) -> StageResult:
    """Write each row with the model's prediction, one JSON object per line, and show the first ones."""
    if config.input is None:
        raise ConfigError(
            "there is no input", "a file of rows (.jsonl, .csv, .parquet, ...)", "give INPUT=rows.jsonl"
        )
    source = Path(config.input)
    target = Path(config.output) if config.output else _default_output(source)
    if target.resolve() in {Path(file.path).resolve() for file in find_files(config.input, "input")}:
        raise ConfigError(f"output={target} is the input file", "another file", "give OUTPUT=PATH")
    check_writable(target)
    bundle = load_asked(config)
    task = asked_task(config, bundle)
    names = dict(config.columns or {})
    columns = with_trained_names(task.input_columns, bundle)
    carried = (*task.targets, *task.optional, KEPT, *names)
    rows = read_rows(source, names, columns, carried=carried, say=partial(report.say, "Note"))
    report.say("Rows", f"{len(rows):,} of {source}")
    inputs = [_inputs(row, columns) for row in rows]
    _say_unread(task, rows, columns)
    batch_size = construct(config.trainer, TrainerOptions).answer_batch_size
    with progress.showing("predict"):
        answers = task.predict(bundle.model, bundle.tokenizer, inputs, batch_size=batch_size)
    lines = (json_line(as_record(*pair)) for pair in zip(rows, answers, strict=True))
    write_whole(target, "".join(f"{line}\n" for line in lines))
    shown = [task.sample(row, answer) for row, answer in zip(inputs[:N_SAMPLES], answers, strict=False)]
    report.panel("Predictions", report.show_samples(shown))
    n_lines = "1 line" if len(rows) == 1 else f"{len(rows):,} lines"
    report.say("Written", f"{target} ({n_lines}, each row with its 'prediction')")
    return StageResult(stage="predict", bundle=str(bundle.folder), output=[str(target)], is_said=True)


def _default_output(source: Path) -> Path:
    """Return the default output file, a different one for each file of a folder.

    Raises:
        ConfigError: if the input is a pattern, which has no name of its own.
    """
    if has_magic(str(source)) and not source.exists():
        raise ConfigError(
            f"input={source} is a pattern, but no output is named", "a file to write", "give OUTPUT=PATH"
        )
    return source.with_name(source.name.removesuffix(".jsonl") + SUFFIX)


def _inputs(row: Row, columns: Columns) -> Row:
    """Return the input columns of a row, without targets."""
    seen = (*columns.required, *columns.optional)
    return {name: value for name, value in row.items() if name in seen}


def _say_unread(task: FinetuneTask, rows: Sequence[Row], columns: Columns) -> None:
    """Report optional columns of the task that this model does not read."""
    for name in task.optional:
        if name not in (*columns.required, *columns.optional) and any(name in row for row in rows):
            report.say("Columns", f"'{name}' is not read: this model was trained without it")
