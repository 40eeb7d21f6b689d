"""Compare the tokens per second of training steps with different configurations.

    python -m benchmarks.speed a="trainer.precision=fp32" b="trainer.precision=bf16"
    python -m benchmarks.speed tiny="size=tiny" small="size=small" --steps 10
    python -m benchmarks.speed rotary="" alibi="position=alibi" learned="position=learned"
    python -m benchmarks.speed default="" --lightning

Each NAME="KEY=VALUE ..." is a configuration, with overrides of `make pretrain`. Model, optimizer, packing,
batches and gradient clipping are the real ones; rows are random tokens, and the loop is a plain one.
Configurations alternate (a b a b ...), so that other load on the machine affects all of them equally, and a
ratio to the first configuration is computed within each turn. The results are medians over the turns, with
the lowest and highest value.

With --lightning, each turn of a configuration is followed by the same steps with Lightning's Trainer and the
callbacks of a run; `lightning` is the ratio of its tokens per second to those of the plain loop. Validation,
samples, checkpoints and the writer process of MLflow are not included.

A token is a position of the input that is not padding. Standard output has one line of JSON, and standard
error the messages. OMP_NUM_THREADS sets the threads.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.arguments import count
from pipeline.errors import ConfigError, UserError
from pipeline.tuning import tune_process

if TYPE_CHECKING:  # torch and Lightning take seconds to import, and --help must not wait for them
    from benchmarks.training import Training

#: Untimed steps at the beginning, in which memory is allocated, and kernels are selected or compiled.
N_WARMUP_STEPS = 3

#: Tokens per second of each turn, by configuration.
Rates = dict[str, list[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one line of JSON, and return the exit code."""
    parsed = _parser().parse_args(arguments)
    tune_process()
    try:
        found = measure(
            parse_configurations(parsed.configurations),
            n_steps=parsed.steps,
            n_turns=parsed.turns,
            document_tokens=parsed.document_tokens,
            lightning=parsed.lightning,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, ensure_ascii=False))
    return 0


def parse_configurations(words: Sequence[str]) -> dict[str, list[str]]:
    """Return name -> overrides.

    Raises:
        ConfigError: if a word is not a named set of overrides, or two have the same name.
    """
    configurations: dict[str, list[str]] = {}
    for word in words:
        name, equals, overrides = word.partition("=")
        if not equals or not name.isidentifier() or name in configurations:
            problem = f"'{word}' is not a configuration with a unique name"
            raise ConfigError(problem, 'NAME="KEY=VALUE ..."', 'for example bf16="trainer.precision=bf16"')
        configurations[name] = shlex.split(overrides)
    return configurations


def measure(
    configurations: dict[str, list[str]], *, n_steps: int, n_turns: int, document_tokens: int, lightning: bool
) -> dict[str, Any]:
    """Return the results of all configurations, measured in turns of `n_steps` steps.

    Raises:
        UserError: if an override is wrong.
    """
    import torch

    from benchmarks.training import Training
    from pipeline.machine.devices import describe_device

    started = time.monotonic()
    max_steps = N_WARMUP_STEPS + n_turns * n_steps
    trainings = {
        name: Training(overrides, document_tokens=document_tokens, max_steps=max_steps)
        for name, overrides in configurations.items()
    }
    plain, trained = take_turns(trainings, n_steps=n_steps, n_turns=n_turns, lightning=lightning)
    first = next(iter(plain))
    return {
        "benchmark": "speed",
        "device": sorted({describe_device(training.options) for training in trainings.values()}),
        "torch": torch.__version__,
        "steps": n_steps,
        "turns": n_turns,
        "document_tokens": document_tokens,
        "configurations": {
            name: {
                "overrides": " ".join(configurations[name]),
                "precision": training.precision,
                "parameters": training.n_parameters,
                "tokens_per_second": spread(plain[name], digits=0),
            }
            for name, training in trainings.items()
        },
        "ratios": {f"{name}/{first}": ratio(plain[name], plain[first]) for name in plain if name != first},
        "lightning": {name: ratio(trained[name], plain[name]) for name in plain if lightning},
        "seconds": round(time.monotonic() - started, 1),
    }


def take_turns(
    trainings: Mapping[str, "Training"], *, n_steps: int, n_turns: int, lightning: bool
) -> tuple[Rates, Rates]:
    """Return tokens per second of each turn, in the plain loop and, if requested, with Lightning."""
    plain: Rates = {name: [] for name in trainings}
    trained: Rates = {name: [] for name in trainings}
    for training in trainings.values():
        training.run_plainly(N_WARMUP_STEPS)
    with TemporaryDirectory() as folder, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for turn in range(n_turns):
            for name, training in trainings.items():
                plain[name].append(training.run_plainly(n_steps).tokens_per_second)
                if lightning:
                    steps = training.run_in_lightning(
                        n_steps, n_warmup_steps=N_WARMUP_STEPS, folder=Path(folder) / name, stream=nowhere
                    )
                    trained[name].append(steps.tokens_per_second)
            rates = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in plain.items())
            print(f"turn {turn + 1} of {n_turns}: {rates} tokens/s", file=sys.stderr)
    return plain, trained


def ratio(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Return the ratios of values to their base, within each turn."""
    return spread([value / other for value, other in zip(values, base, strict=True)], digits=3)


def spread(values: Sequence[float], *, digits: int) -> dict[str, float]:
    """Return the median with the lowest and the highest."""
    found = {"median": median(values), "low": min(values), "high": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configurations", nargs="+", metavar='NAME="KEY=VALUE ..."', help="one or more")
    parser.add_argument("--steps", type=count, default=20, help="training steps of each turn (20)")
    parser.add_argument("--turns", type=count, default=5, help="turns of each configuration (5)")
    parser.add_argument(
        "--document-tokens",
        type=count,
        default=150,
        help="mean tokens of a document, varying by half (150, like a story); rows contain several documents",
    )
    parser.add_argument("--lightning", action="store_true", help="also measure the Trainer and our callbacks")
    return parser


if __name__ == "__main__":
    sys.exit(main())
