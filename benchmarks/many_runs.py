"""Measure how long `make compare` and `make lineage` take with many runs.

    python -m benchmarks.many_runs
    python -m benchmarks.many_runs --runs 1000

In a temporary folder, a small pretraining, a fine-tuning and an evaluation run. The last two are copied until
there are as many runs as requested, in the folder and in an MLflow store, where each has its parameters and a
hundred points. Then both commands are timed as a user runs them, as a new process from start to end: the
median, lowest and highest wall time of a few turns, and the processor time of the first turn. Standard output
has one line of JSON, and standard error the messages.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.arguments import count

ROOT = Path(__file__).parent.parent
SMALL = ("debug=quick", "data.n_train_rows=60", "data.n_validation_rows=12")
MADE = {
    "base": ("pretrain", *SMALL, "tokenizer.vocab_size=600", "name=base"),
    "tuned": ("finetune", "task=classify", *SMALL, "init_from=base", "name=tuned"),
    "measured": ("evaluate", "task=classify", "data=storyworld_classify", "bundle=tuned", "name=measured"),
    "registered": ("register", "bundle=tuned", "tracking.end_wait_s=60"),
}
TIMED = {
    "compare": ("compare", "runs=[last:3:finetune]", "tracking=off", "output=compare.html"),
    "lineage": ("lineage", "bundle=tuned"),
}
#: The metrics of each run in the store.
N_POINTS = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Create the runs, time both commands, print one line of JSON, and return the exit code."""
    parsed = _parser().parse_args(arguments)
    with TemporaryDirectory(prefix="many-runs-") as name:
        folder = Path(name)
        for words in MADE.values():
            _run(folder, words)
        multiply(folder, parsed.runs)
        found = {command: measure(folder, words, parsed.turns) for command, words in TIMED.items()}
    print(json.dumps({"benchmark": "many_runs", "runs": parsed.runs, "turns": parsed.turns, **found}))
    return 0


def multiply(folder: Path, n_runs: int) -> None:
    """Copy the fine-tuning and its evaluation until the folder and the store have this many runs."""
    from mlflow.entities import Metric, Param

    from pipeline.tracking.options import Store
    from pipeline.tracking.store import open_client

    client = open_client(Store(f"sqlite:///{folder / 'mlflow.db'}", folder / "mlartifacts"))
    (found,) = client.search_experiments(filter_string="name = 'prelude'")
    experiment = str(found.experiment_id)
    params = [Param(f"key.{number}", str(number)) for number in range(80)]
    points = [Metric("train/loss", 1 / (1 + step), step, step) for step in range(N_POINTS)]
    for number in range(n_runs - len(MADE)):
        original = ("tuned", "measured")[number % 2]
        run = client.create_run(experiment, run_name=f"{original}-{number}")
        client.log_batch(run.info.run_id, metrics=points, params=params)
        client.set_terminated(run.info.run_id)
        _copy(folder / "runs", original, f"{original}-{number}", run.info.run_id)


def _copy(runs: Path, original: str, name: str, run_id: str) -> None:
    """Copy a run folder under another name; large files are hard links."""
    target = runs / name
    shutil.copytree(runs / original, target, copy_function=os.link)
    for file, changes in (("run.json", {"name": name}), ("tracking/progress.json", {"run_id": run_id})):
        record = json.loads((target / file).read_text(encoding="utf-8")) | changes
        (target / file).unlink()  # a hard link to the original
        (target / file).write_text(json.dumps(record), encoding="utf-8")


def measure(folder: Path, words: Sequence[str], n_turns: int) -> Mapping[str, Any]:
    """Measure the wall time of each turn, and the processor time of the first, in seconds."""
    seconds, before = [], resource.getrusage(resource.RUSAGE_CHILDREN)
    used = 0.0
    for turn in range(n_turns):
        started = time.monotonic()
        _run(folder, words)
        seconds.append(time.monotonic() - started)
        if turn == 0:
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "median_s": round(median(seconds), 2),
        "lowest_s": round(min(seconds), 2),
        "highest_s": round(max(seconds), 2),
        "processor_s": round(used, 2),
    }


def _run(folder: Path, words: Sequence[str]) -> None:
    """Run a command of the pipeline in this folder.

    Raises:
        CalledProcessError: if it failed; its messages are on standard error.
    """
    environ = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=folder,
        env={**environ, "PYTHONPATH": str(ROOT)},
        stdout=sys.stderr,
        check=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_runs", description=__doc__)
    parser.add_argument("--runs", type=count, default=300, help="runs in folder and store (default 300)")
    parser.add_argument("--turns", type=count, default=3, help="how often each command is timed (default 3)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
