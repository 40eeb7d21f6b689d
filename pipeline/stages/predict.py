"""Answer a file of rows with a fine-tuned bundle."""

import json
from pathlib import Path

from omegaconf import DictConfig

from datamodules.corpus import Columns, read_rows
from pipeline import build, report
from pipeline.errors import ConfigError
from pipeline.evaluation import N_SAMPLES, as_record
from pipeline.finetuned import asked_task, load_asked
from pipeline.output import check_writable, write_whole
from pipeline.stages.result import StageResult

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
    if target.resolve() == source.resolve():
        raise ConfigError(f"output={target} is the input", "another file", "give OUTPUT=PATH")
    check_writable(target)
    bundle = load_asked(config)
    task = asked_task(config, bundle)
    names = dict(config.columns or {})
    kept = dict.fromkeys((*task.truths, *task.optional, KEPT, *names))
    columns = Columns(task.inputs, tuple(name for name in kept if name not in task.inputs))
    rows = list(read_rows(source, names, columns))
    report.say("Rows", f"{len(rows):,} of {source}")
    batch_size = build.construct(config.trainer).answer_batch_size
    answers = task.predict(bundle.model, bundle.tokenizer, rows, batch_size=batch_size)
    lines = (json.dumps(as_record(*pair), ensure_ascii=False) for pair in zip(rows, answers, strict=True))
    write_whole(target, "".join(f"{line}\n" for line in lines))
    shown = [task.sample(row, answer) for row, answer in zip(rows[:N_SAMPLES], answers, strict=False)]
    report.panel("Answers", report.show_samples(shown))
    report.say("Written", f"{target} ({len(rows):,} lines, each row with its 'prediction')")
    return StageResult(stage="predict", bundle=str(bundle.folder), output=[str(target)])
