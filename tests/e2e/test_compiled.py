"""A run with compiled layers goes on exactly, and a long run measures whether it should have them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.machine.compiling import CACHE_VARIABLE

ROOT = Path(__file__).parents[2]
WORDS = (
    *("pretrain", "debug=quick", "tokenizer=bytes", "packing=concat", "data=files", "data.train=my.txt"),
    *("tracking=off", "trainer.precision=fp32"),
)

#: The command, which gets Ctrl-C when step 8 begins.
STOPPED = """
import os, signal, sys
from pipeline.__main__ import main
from pipeline.training.callbacks.seeding import StepSeed

begin = StepSeed.on_train_batch_start

def stop(self, trainer, *rest):
    if trainer.global_step == 7:
        os.kill(os.getpid(), signal.SIGINT)
    begin(self, trainer, *rest)

StepSeed.on_train_batch_start = stop
sys.exit(main(sys.argv[1:]))
"""

#: The command, which gets Ctrl-C in the middle of compiling.
STOPPED_COMPILING = """
import os, signal, sys
from torch._inductor import graph
from pipeline.__main__ import main

begin = graph.GraphLowering.run

def stop(self, *inputs):
    os.kill(os.getpid(), signal.SIGINT)
    return begin(self, *inputs)

graph.GraphLowering.run = stop
sys.exit(main(sys.argv[1:]))
"""


def run(
    folder: Path,
    *words: str,
    python: tuple[str, ...] = ("-m", "pipeline"),
    environ: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run the command in a process of its own: the checks of shapes cannot be compiled."""
    (folder / "my.txt").write_text("".join(f"Line {i} of a long poem, {i * i} times.\n" for i in range(400)))
    done = subprocess.run(
        [sys.executable, *python, *WORDS, *words],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != CACHE_VARIABLE}
        | {"PYTHONPATH": str(ROOT), **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_compiled_run_that_is_stopped_and_resumed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    code, said = run(tmp_path, "trainer.compile=true", "name=whole")
    assert code == 0, said
    assert ", layers compiled" in said
    code, said = run(tmp_path, "trainer.compile=true", "name=parts", python=("-c", STOPPED))
    assert code == 130, said
    assert "stopped by Ctrl-C after step 8 of 20" in said
    code, said = run(tmp_path, "resume=parts")
    assert code == 0, said
    weights = [tmp_path / f"runs/{name}/bundles/best/model.safetensors" for name in ("whole", "parts")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert list(tmp_path.glob(".cache/compiled/*/fxgraph"))


@pytest.mark.slow
def test_a_long_run_measures_a_compiled_layer_and_records_its_choice(tmp_path: Path) -> None:
    code, said = run(tmp_path, "trainer.max_steps=10000000", "name=long", python=("-c", STOPPED))
    assert code == 130, said
    chosen = json.loads((tmp_path / "runs/long/run.json").read_text())["chosen"]["trainer.compile"]
    assert "Compiling one layer, to measure it: not compiled, the layers will take " in said
    assert f"so they are {'' if chosen else 'not '}compiled" in said
    assert (", layers compiled" in said) is chosen


@pytest.mark.slow
def test_ctrl_c_while_a_layer_is_compiled_ends_the_run(tmp_path: Path) -> None:
    code, said = run(tmp_path, "trainer.max_steps=10000000", "name=long", python=("-c", STOPPED_COMPILING))
    assert code == 130, said
    assert said.endswith("error: stopped by Ctrl-C; no incomplete files were left")
    assert "Traceback" not in said
    assert json.loads((tmp_path / "runs/long/run.json").read_text())["status"] == "KILLED"


@pytest.mark.slow
def test_a_compiled_run_goes_on_without_a_compiler_if_that_is_requested(tmp_path: Path) -> None:
    assert run(tmp_path, "trainer.compile=true", "name=parts", python=("-c", STOPPED))[0] == 130
    no_compiler = {"CXX": "/no/such/compiler"}
    code, said = run(tmp_path, "resume=parts", environ=no_compiler)
    assert code == 2, said
    assert "PyTorch finds no C++ compiler" in said
    code, said = run(tmp_path, "resume=parts", "trainer.compile=false", environ=no_compiler)
    assert code == 0, said
    assert "trainer.compile" in said
