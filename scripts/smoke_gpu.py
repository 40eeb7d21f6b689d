"""Try everything that depends on GPUs, in five minutes, and say in words what works (`make smoke-gpu`).

    python -m scripts.smoke_gpu
    python -m scripts.smoke_gpu --cpu               # two processes of the CPU, to try the script itself
    python -m scripts.smoke_gpu --only ddp resume

Each line is a real run of `pretrain` in a temporary folder, on generated stories. Its validation loss is
compared with that of the first run, on one device in float32. The exit code is 1 if something does not work.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args, get_type_hints

from pipeline.machine.options import TrainerOptions
from pipeline.words import size_words

ROOT = Path(__file__).parents[1]

#: Rows per step, on however many devices, and steps; longer runs are resumed ones.
ROWS, STEPS, LONGER = 16, 20, 30

WORDS = (
    *("seed=1", "tracking=off", "schedule=constant", "tokenizer=bytes", "data.n_train_rows=400"),
    *("data.n_validation_rows=16", "trainer.val_every_steps=1000", "trainer.log_every_steps=5"),
)
#: In float32 throughout, so that losses can be compared.
EXACT = ("trainer.precision=fp32", "optimizer.newton_schulz=fp32")
ON_GPU, ON_CPU = ("size=small",), ("debug=quick", "trainer.accelerator=cpu")

#: Seconds after which a run is ended.
LIMIT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something that may work.

    Args:
        name: for `--only`.
        means: what works, in words.
        words: overrides of the run.
        n_devices: the devices that train.
        within: the largest relative difference of the loss from that of one device.
        on_cpu: whether it is tried with `--cpu` too.
    """

    name: str
    means: str
    words: tuple[str, ...] = ()
    n_devices: int = 1
    within: float
    on_cpu: bool = True


def checks(n_devices: int) -> list[Check]:
    """Return the checks of runs from scratch."""
    found = [
        Check(
            name="bf16",
            means="bfloat16 has nearly the loss of float32",
            words=("trainer.precision=bf16",),
            within=0.02,
            on_cpu=False,
        ),
        Check(
            name="compile",
            means="torch.compile has the loss of eager execution",
            words=("trainer.compile=true",),
            within=1e-3,
            on_cpu=False,
        ),
        Check(
            name="checkpointing",
            means="activation checkpointing has the loss of none",
            words=("trainer.activation_checkpointing=full",),
            within=1e-5,
        ),
    ]
    if n_devices > 1:
        found += [
            Check(
                name=strategy,
                means=f"{n_devices} devices with {strategy} have the loss of one",
                words=(f"trainer.strategy={strategy}",),
                n_devices=n_devices,
                within=1e-4,
            )
            for strategy in get_args(get_type_hints(TrainerOptions)["strategy"])
            if strategy != "auto"
        ]
    return found


class CommandError(Exception):
    """A command failed; the message is its own."""


@dataclass
class Smoke:
    """Runs the checks, and prints a line for each.

    Args:
        on_cpu: use two processes of the CPU.
        n_devices: the devices of this machine.
        folder: where runs are written.
        only: names of checks; none: all.
    """

    on_cpu: bool
    n_devices: int
    folder: Path
    only: Sequence[str] = ()
    n_failed: int = field(default=0, init=False)

    def run(self) -> None:
        """Run all checks that are requested."""
        self._try("one", self._first)
        if self.n_failed:
            return
        for check in checks(self.n_devices):
            if self.on_cpu and not check.on_cpu:
                print(f"skipped  {check.name}: on a CPU it takes minutes")
            elif not self.only or check.name in self.only:
                self._try(check.name, lambda check=check: self._compare(check))  # type: ignore[misc]
        if self.n_devices == 1:
            print("skipped  ddp and fsdp: they need two devices")
        if not self.only or "resume" in self.only:
            self._try("resume", self._resume)

    def _try(self, name: str, check: Callable[[], str]) -> None:
        started = time.monotonic()
        try:
            said, mark = check(), "ok     "
        except (CommandError, subprocess.TimeoutExpired) as error:
            said, mark = str(error), "FAILED "
            self.n_failed += 1
        print(f"{mark}  {name}: {said} ({time.monotonic() - started:.0f} s)", flush=True)

    def _first(self) -> str:
        words = self._words(1, EXACT)
        self._call("estimate", *(word for word in words if word != "tracking=off"))
        found = self._call("pretrain", *words, "name=one")
        self._loss = found["val/loss"]
        said = (
            f"one device trains: loss {self._loss:.4f} after {STEPS} steps, {found['step_s']:.3f} s per step"
        )
        said += f", estimated {found['estimated_step_s']:.3f} s"
        if "peak_bytes" not in found:
            return said + "; PyTorch does not count the memory of a CPU"
        measured, estimated = found["peak_bytes"], found["estimated_peak_bytes"]
        return (
            f"{said}; peak memory {size_words(measured)}, estimated {size_words(estimated)} "
            f"({measured / estimated - 1:+.1%})"
        )

    def _compare(self, check: Check) -> str:
        exact = tuple(word for word in EXACT if word.partition("=")[0] not in " ".join(check.words))
        words = self._words(check.n_devices, (*exact, *check.words))
        found = self._call("pretrain", *words, f"name={check.name}")
        return self._near(found["val/loss"], self._loss, check.within, check.means)

    def _resume(self) -> str:
        """Continue a run of several devices on one, next to one that always had one."""
        longer = (f"trainer.max_steps={LONGER}", "tracking=off")
        loss = self._call("pretrain", "resume=one", *longer)["val/loss"]
        if not (self.folder / "runs" / "ddp").exists():
            return f"a run is resumed and trained longer: loss {loss:.4f} after {LONGER} steps"
        spread = ("trainer.devices=1", f"trainer.batch_size={ROWS}")
        other = self._call("pretrain", "resume=ddp", *longer, *spread)["val/loss"]
        return self._near(
            other, loss, 1e-4, f"a run of {self.n_devices} devices is resumed on one, which has its loss"
        )

    def _near(self, loss: float, expected: float, within: float, means: str) -> str:
        difference = loss / expected - 1
        said = f"{means}: {loss:.5f} and {expected:.5f}, {difference:+.1e}"
        if not abs(difference) <= within:
            raise CommandError(f"expected, but not found: {said}; at most {within:.0e} was expected")
        return said

    def _words(self, n_devices: int, more: Sequence[str]) -> list[str]:
        size = ON_CPU if self.on_cpu else ON_GPU
        rows = f"trainer.batch_size={ROWS // n_devices}"
        return [*size, *WORDS, f"trainer.max_steps={STEPS}", f"trainer.devices={n_devices}", rows, *more]

    def _call(self, stage: str, *words: str) -> dict[str, float]:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", stage, *words, "--json"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            encoding="utf-8",
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no output"]
            errors = [line for line in lines if line.startswith("error: ")]
            raise CommandError(f"{stage} ended with {done.returncode}: {(errors or lines)[-1]}")
        return dict(json.loads(done.stdout.splitlines()[-1])["metrics"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="make smoke-gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="two processes of the CPU instead of GPUs")
    parser.add_argument("--only", nargs="+", default=(), metavar="CHECK", help="ddp, bf16, resume, ...")
    parsed = parser.parse_args(arguments)
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not n_gpus and not parsed.cpu:
        print(
            "error: PyTorch finds no GPU here; try two processes of the CPU with: make smoke-gpu ARGS=--cpu",
            file=sys.stderr,
        )
        return 2
    # Rows are divided evenly.
    n_devices = 2 if parsed.cpu else max(n for n in (1, 2, 4, 8, 16) if n <= n_gpus)
    name = "the CPU" if parsed.cpu else torch.cuda.get_device_name()
    print(f"{n_devices} x {name}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        smoke = Smoke(on_cpu=parsed.cpu, n_devices=n_devices, folder=Path(folder), only=parsed.only)
        smoke.run()
    print("everything works" if not smoke.n_failed else f"{smoke.n_failed} of these do not work")
    return 1 if smoke.n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
