"""Explain a model's predictions for a file of rows."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.progress import Progress
from rich.text import Text

from datamodules.corpus import TEXT_ONLY, Columns, read_rows
from datamodules.errors import DataError
from modules.generation import SamplingOptions
from modules.interpret import COMPLETE
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.errors import ConfigError
from pipeline.explain.explanation import explain_row
from pipeline.explain.folder import PAGE, check_folder, write_folder
from pipeline.explain.shown import ExplainedRow, target_of, texts_of
from pipeline.machine.devices import device_of
from pipeline.machine.options import TrainerOptions
from pipeline.registry import versions as registry
from pipeline.runs.bundle import Bundle, load_bundle
from pipeline.runs.finetuned import with_trained_names
from pipeline.tasks.finetuning import FinetuneTask, Row

#: Appended to the name of the input to form the default output.
SUFFIX = ".explained"
#: The number of words per row, and of rows, in the summary.
_N_WORDS, _N_ROWS = 5, 5


def explain(config: Config) -> StageResult:
    """Predict each row and explain the prediction, as pictures, JSON and an HTML page in a folder.

    Raises:
        ConfigError: if there is no input.
        RunError: if the folder exists or cannot be written.
        DataError: if a row cannot be read.
    """
    if config.input is None:
        raise ConfigError(
            "there is no input", "a file of rows (.jsonl, .csv, .parquet, ...)", "give INPUT=rows.jsonl"
        )
    source = Path(config.input)
    folder = Path(config.output) if config.output else source.with_name(source.stem + SUFFIX)
    check_folder(folder)
    bundle = load_bundle(registry.find_trained(config.bundle, Path(config.runs_dir)))
    bundle.model.to(device_of(TrainerOptions()))
    report.say("Bundle", report.short(bundle.folder))
    report.say("Model", report.describe_model(bundle.model))
    rows = _rows(config, source, bundle)
    report.say("Rows", f"{len(rows):,} of {source}")
    sampling = construct(config.sampling, SamplingOptions, seed=config.seed)
    with Progress(console=report.console(), transient=True) as progress:
        bar = progress.add_task("Explaining", total=2 * len(rows))
        advance = partial(progress.advance, bar)
        explained = []
        for number, row in enumerate(rows, 1):
            explained.append(_explained(bundle, number, row, sampling))
            advance()
        write_folder(folder, explained, title=f"Explanations of {bundle.provenance['run']}", advance=advance)
    gap = max((one for row in explained if (one := row.explanation.gap) is not None), default=None)
    _say(explained, folder, gap)
    metrics = {} if gap is None else {"completeness_gap": gap}
    return StageResult(
        stage="explain", bundle=str(bundle.folder), metrics=metrics, output=[str(folder)], is_said=True
    )


def _rows(config: Config, source: Path, bundle: Bundle) -> list[Row]:
    task, names = bundle.task, dict(config.columns or {})
    is_finetuned = isinstance(task, FinetuneTask)
    columns: Columns = with_trained_names(task.input_columns, bundle) if is_finetuned else TEXT_ONLY
    carried = (*task.targets, *task.optional, *names) if is_finetuned else tuple(names)
    return list(read_rows(source, names, columns, carried=carried, say=partial(report.say, "Note")))


def _explained(bundle: Bundle, number: int, row: Row, sampling: SamplingOptions) -> ExplainedRow:
    try:
        explanation = explain_row(bundle.task, bundle.model, bundle.tokenizer, row, sampling=sampling)
    except DataError as error:
        raise DataError(f"row {number}: {error.problem}", error.expected, error.remedy) from error
    return ExplainedRow(
        number=number,
        columns=texts_of(bundle.task, row, explanation),
        target=target_of(bundle.task, row),
        explanation=explanation,
    )


def _say(explained: Sequence[ExplainedRow], folder: Path, gap: float | None) -> None:
    """Print the first predictions with their most important words, the largest gap, and the output files."""
    lines = Text()
    for row in explained[:_N_ROWS]:
        lines.append(f"{row.number}  ", "dim").append(row.explanation.answer or "no answer", "bold")
        for decision in row.explanation.decisions:
            words = ", ".join(
                f"{word.title} {word.attribution:+.2f}" for word in decision.strongest(_N_WORDS)
            )
            about = f"\n   {decision.about}:" if len(row.explanation.decisions) > 1 else " "
            lines.append(f"{about} because of {words}" if words else "")
        lines.append("\n")
    lines.rstrip()
    report.panel("Explained", lines)
    if gap is not None:
        n_incomplete = sum(not one.is_complete for row in explained for one in row.explanation.decisions)
        verdict = f"{n_incomplete:,} above {COMPLETE:g}" if n_incomplete else f"all below {COMPLETE:g}"
        report.say("Complete", f"largest completeness gap of the attributions: {gap:.1e} ({verdict})")
    report.say("Written", f"{folder} (a picture and a JSON file per row)")
    report.say("Page", report.short((folder / PAGE).absolute()))
