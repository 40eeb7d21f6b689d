"""Bundles on the disk that can answer, made without training, and processes that serve them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.config.compose import compose
from pipeline.config.model import build_model
from pipeline.config.plain import to_plain
from pipeline.runs.bundle import save_bundle
from pipeline.serving.server import bind
from tests.commands import ROOT
from tests.pipeline.made_bundles import make_run
from tests.pipeline.serving.models import LABELS, TOKENIZER
from tests.waiting import wait_until

TASK = {"_target_": "pipeline.tasks.classify.TextClassification", "label_names": LABELS, "optional_read": []}


def save_classifier(run: Path, *, seed: int = 0) -> Path:
    """A finished run with a bundle that classifies, with random weights."""
    make_run(run)
    model: dict[str, Any] = dict(to_plain(compose("pretrain", ["debug=quick"]).model))
    model["head"] = {
        "_target_": "modules.heads.PooledClassifier",
        "d_model": model["backbone"]["layer"]["d_model"],
        "n_classes": len(LABELS),
        "pooling": "last",
    }
    torch.manual_seed(seed)
    folder = run / "bundles" / "best"
    save_bundle(
        folder,
        model=build_model(model, TOKENIZER),
        tokenizer=TOKENIZER,
        model_config=model,
        task_config=TASK,
        config={"choices": {"task": "classify"}},
        provenance={"run": run.name, "step": 1, "stage": "finetune", "corpus": {"fingerprint": "0"}},
        metrics={"test/accuracy": 0.5},
    )
    return folder


@contextmanager
def process(folder: Path, *words: str) -> Iterator[tuple["subprocess.Popen[bytes]", str, Path]]:
    """A server in a process of its own, once it is ready: the process, its address and what it printed.

    It prints to a file, since a pipe that nobody reads would make it wait when it is full.
    """
    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words, f"port={port}"]
    printed = folder / "server.log"
    with (
        printed.open("wb") as file,
        subprocess.Popen(command, cwd=folder, env=environ, stderr=file) as started,
    ):
        try:
            wait_until(lambda: " ready at " in printed.read_text(), "it is ready", process=started)
            yield started, f"http://127.0.0.1:{port}", printed
        finally:
            started.kill()
