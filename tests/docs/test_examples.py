"""The commands of the README and the reference run, one after the other."""

import csv
import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TextIO

import pytest

from datamodules.corpus import Columns
from datamodules.storyworld import StoryWorld
from pipeline.__main__ import main
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from tests.commands import ROOT, pipeline_words
from tests.docs.documents import PLACEHOLDER, REFERENCE, commands, finetuning_tasks, make_words
from tests.waiting import wait_until

#: Stages that end by themselves and need nothing but files.
RUNNABLE = (
    *("pretrain", "tokenizer", "finetune", "evaluate", "predict", "try", "generate", "show-data"),
    *("compare", "doctor"),
)

#: A run that is killed, and resumed.
LONG_ENOUGH_TO_KILL = ("trainer.max_steps=400", "trainer.checkpoint_every_steps=10")

#: What someone types at the terminal; as many lines as any task asks for.
TYPED = "Anna has the lantern.\nWho has the lantern?\n"

#: Labels that an example's rows have in turn.
LABELS = ("good", "bad")


def needs_other_data(config: Config) -> bool:
    """Whether the corpus has to be fetched from the Hub."""
    return str(config.data._target_).rpartition(".")[2] in ("Hub", "Mirror")


def write_example_files(config: Config, texts: Sequence[str]) -> None:
    """The user's files that an example names, if they are not there."""
    for name in filter(None, (config.data.train, config.data.validation)):
        rows = texts[: len(texts) // 10] if name == config.data.validation else texts[len(texts) // 10 :]
        if name.endswith(".txt"):
            Path(name).write_text("\n".join(rows))
        else:
            columns = {config.data.columns.text: rows, config.data.columns.get("label"): cycle(LABELS)}
            names = [column for column in columns if column is not None]
            write_rows(
                name, [dict(zip(names, row, strict=False)) for row in zip(*columns.values(), strict=False)]
            )


def write_input(config: Config) -> None:
    """The rows that `predict` shall answer, under the names that the example gives their columns."""
    overrides = [f"task={config.choices.task}", *FEW_LABELLED]
    task = finetuning_tasks()[config.choices.task]
    corpus = construct(compose("finetune", overrides).data).load(Columns(task.inputs))
    names = config.columns or {}
    rows = [{names.get(column, column): row[column] for column in task.inputs} for row in corpus.train]
    write_rows(config.input, rows)


def write_rows(name: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as the kind of file that its name says."""
    if name.endswith(".csv"):
        with open(name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return
    assert ".jsonl" in name, f"this test cannot write {name}"
    with gzip.open(name, "wt") if name.endswith(".gz") else open(name, "w") as lines:
        lines.write("".join(json.dumps(row) + "\n" for row in rows))


#: Rows of the story world that are enough to see a stage work.
FEW = ("data.n_train_rows=2000", "data.n_validation_rows=50")

FEW_LABELLED = ("data.n_train_rows=300", "data.n_validation_rows=8", "data.n_test_rows=8")


def quick(stage: str, config: Config) -> Iterator[str]:
    """Overrides that make a stage short, of those that it takes."""
    takes = config.stage.uses
    if "debug" in takes:
        yield "debug=quick"
    if "tracking" in takes:
        yield "tracking=off"
    if "trainer" in takes:
        yield "trainer.max_steps=20"
    if stage == "finetune":
        yield from ("trainer.score_rows=4", "trainer.val_every_steps=20")
    if "data" in takes and str(config.data._target_).endswith("StoryWorld"):
        yield from FEW_LABELLED if "view" in config.data else FEW


def pipe(text: str) -> TextIO:
    """The reading end of a pipe that holds `text` and nothing after it."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return os.fdopen(reading)


def leave_a_killed_run(words: Sequence[str]) -> None:
    """Start a stage in another process and kill it between two checkpoints."""
    unfinished = [word for word in words if not word.startswith("resume=")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = set(Path("runs").glob("*"))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *unfinished], env=environ, stderr=subprocess.DEVNULL
    )
    saved = lambda: [  # noqa: E731
        run for run in set(Path("runs").glob("*")) - before if any(run.glob("checkpoints/last.ckpt"))
    ]
    wait_until(saved, "the run has saved a checkpoint", process=process)
    process.kill()
    assert process.wait() == -9


@pytest.mark.slow
def test_the_commands_of_the_readme_and_the_reference_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DEBUG", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    texts = [row["text"] for row in StoryWorld(2000).load().train]
    done: Counter[str] = Counter()
    known = commands(REFERENCE)
    for command in (*(command for command in commands("README.md") if command not in known), *known):
        words = make_words(command)
        called = pipeline_words(words) if words else None
        if not called or called[0] not in RUNNABLE or PLACEHOLDER.search(command):
            continue
        stage, *overrides = called
        config = compose(stage, overrides)
        if "trainer" in config and config.trainer.get("devices"):
            continue  # several processes begin with the command line, which is pytest's here
        if "data" in config:
            if needs_other_data(config):
                continue
            if str(config.data._target_).endswith("Files"):
                write_example_files(config, texts)
        if config.get("input"):
            write_input(config)
        call = [stage, *overrides, *quick(stage, config)]
        if config.get("resume"):
            call += LONG_ENOUGH_TO_KILL
            leave_a_killed_run(call)
        with pipe(TYPED) as typed:
            monkeypatch.setattr("sys.stdin", typed)
            code = main(call)
        printed = capfd.readouterr()
        assert code == 0, f"{command}\n{printed.err}"
        assert not config.get("resume") or "(resumed)" in printed.err
        assert stage != "predict" or len(list(tmp_path.glob("*.predictions.jsonl"))) == done["predict"] + 1
        assert stage != "try" or printed.out.strip(), command
        done[stage] += 1
    assert done["pretrain"] >= 5
    assert done["finetune"] >= len(finetuning_tasks())
    assert done.keys() == set(RUNNABLE) - {"tokenizer"}
