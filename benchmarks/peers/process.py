"""Run a peer in a separate environment as a loop like the others."""

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch

from benchmarks.shapes import Shape

LITGPT = Path(".venv-litgpt") / "bin" / "python"


class LitgptLoop:
    """litgpt in another process: `run` makes it train and reads the duration."""

    def __init__(self, shape: Shape, *, bf16: bool) -> None:
        precision = "bf16-mixed" if bf16 else "32-true"
        script = Path(__file__).with_name("litgpt_loop.py")
        # The cache of torch.compile does not tell sets of instructions apart.
        cache = Path(".cache", "compiled", "litgpt", torch.backends.cpu.get_cpu_capability().lower())
        self._process = subprocess.Popen(
            [LITGPT, script, json.dumps(asdict(shape)), precision],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache.absolute())},
        )  # fmt: skip

    def __enter__(self) -> Self:
        self.run(1)  # which compiles the model
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, n_steps: int) -> float:
        """Make `n_steps` steps, and return the seconds.

        Raises:
            RuntimeError: if the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(n_steps, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.replace(".", "").strip().isdecimal():
                return float(line)
        raise RuntimeError(f"litgpt exited with code {self._process.wait()}; its messages are above")
