"""Measure the duration of commands, and of `make pretrain` up to its first step, each in a new process.

    python -m benchmarks.startup
    python -m benchmarks.startup --turns 5 size=nano

Further arguments are overrides of the pretraining, which runs once before, so that its corpus, tokenizer and
token rows are cached. Tracking is off, and runs are in a temporary folder. Standard output has one line of
JSON with the medians of wall time and of processor time (user and system), in seconds.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.arguments import count

ROOT = Path(__file__).parent.parent
PIPELINE = (sys.executable, "-m", "pipeline")
ANSWERS = {
    "help": ("--help",),
    "wrong_key": ("pretrain", "trainer.max_step=1"),
    "show_config": ("show-config",),
}
#: A program that runs a pretraining, and prints its processor time after the first step.
TO_FIRST_STEP = """
import os, time
from torch.optim.optimizer import register_optimizer_step_post_hook
def say(*_): os.write(1, f"first step after {time.process_time()} s\\n".encode()); time.sleep(60)
register_optimizer_step_post_hook(say)
from pipeline.__main__ import main
main()
"""

Times = tuple[float, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each command, print one line of JSON, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=count, default=3, help="processes of each kind (default: 3)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the pretraining")
    parsed = parser.parse_args(arguments)
    found = {}
    for name, words in ANSWERS.items():
        found[name] = _medians(lambda words=words: answer(words), parsed.turns)  # type: ignore[misc]
    with TemporaryDirectory(prefix="startup-") as folder:
        words = ("pretrain", "tracking=off", f"runs_dir={folder}", *parsed.overrides)
        first_step(words)
        found["first_step"] = _medians(lambda: first_step(words), parsed.turns)
    print(json.dumps({"benchmark": "startup", "turns": parsed.turns, **found}))
    return 0


def answer(words: Sequence[str]) -> Times:
    """Return the wall and processor seconds of a command, from the start of a new process to its end."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [*PIPELINE, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(process.pid, 0)
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


def first_step(words: Sequence[str]) -> Times:
    """Return the wall and processor seconds of a pretraining up to its first step, at which it is killed.

    Raises:
        RuntimeError: if it ended before its first step.
    """
    command = [sys.executable, "-c", TO_FIRST_STEP, *words]
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took = time.perf_counter() - began
        if not line.startswith("first step after"):
            raise RuntimeError(f"python -m pipeline {' '.join(words)} ended before its first step")
        os.killpg(process.pid, signal.SIGKILL)
    return took, float(line.split()[-2])


def _medians(measure: Callable[[], Times], turns: int) -> dict[str, float]:
    walls, processors = zip(*(measure() for _ in range(turns)), strict=True)
    return {"wall_s": round(median(walls), 2), "processor_s": round(median(processors), 2)}


if __name__ == "__main__":
    sys.exit(main())
