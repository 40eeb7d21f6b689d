"""Try a fine-tuned model at the terminal."""

import sys

from datamodules.errors import DataError
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.plain import Config
from pipeline.runs.finetuned import asked_task, load_asked
from pipeline.tasks.finetuning import FinetuneTask, Prediction, Row


def ask(config: Config) -> StageResult:
    """Read a text, show the prediction, and repeat until the input ends (Ctrl-D) or `quit` is typed."""
    bundle = load_asked(config)
    task = asked_task(config, bundle)
    report.say("Ask", "type a line at each >; an empty line repeats the last one; Ctrl-D quits")
    history: list[tuple[Row, Prediction]] = []
    while (typed := _read(task, history)) is not None:
        row = task.row_from_input(typed, history)
        try:
            (answer,) = task.predict(bundle.model, bundle.tokenizer, [row], batch_size=1)
        except DataError as error:
            report.say("Ask", f"{error.problem.removeprefix('row 1: ')}; expected {error.expected}")
            continue
        sure = "" if answer.confidence is None else f"  ({answer.confidence:.0%} sure)"
        print(f"{answer.text}{answer.remark}{sure}\n", flush=True)
        history.append((row, answer))
    return StageResult(stage="try", bundle=str(bundle.folder))


def _read(task: FinetuneTask, history: list[tuple[Row, Prediction]]) -> list[str] | None:
    """Read an answer to each question; return None at the end of the input."""
    typed = []
    for question in task.questions:
        print(f"{question}> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "quit":
            print(file=sys.stderr)
            return None
        typed.append(line.strip())
    if not history and not all(typed):
        report.say("Ask", "an empty line repeats the last one, but there is none yet")
        return _read(task, history)
    return typed
