"""Compare Prelude with its peers in training, generation and tokenization.

    python -m benchmarks.bench
    python -m benchmarks.bench --only small tokenize --turns 3

Prelude is measured with Lightning, callbacks, logging and the default recipe. The peers are a plain loop like
nanoGPT's (`benchmarks/peers/plain.py`), the Trainer and `generate` of `transformers`, and litgpt if `make
bench-peers` has installed it. Shape, rows, batch and precision are the same for all. They run alternately,
and a ratio is computed within each turn. The results are medians over the turns, with the lowest and highest
value: three turns, or fewer if they take more than 40 seconds.

Standard output has one line of JSON per row, and standard error a table at the end. `share` is the fraction
of the machine's matrix rate that Prelude reaches in training; the rate is measured first, in the same
precision.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.arguments import count
from benchmarks.shapes import SHAPES
from pipeline.tuning import tune_process

if TYPE_CHECKING:  # torch and Lightning take seconds to import, and --help must not wait for them
    from benchmarks.side_by_side import Row

#: Measurements other than training at each of the shapes.
GENERATE, TOKENIZE = "generate", "tokenize"
ALL = (*SHAPES, GENERATE, TOKENIZE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurements, print the results, and return the exit code."""
    parsed = _parser().parse_args(arguments)
    tune_process()
    from benchmarks.machine import describe

    machine = describe()
    print(
        f"{machine['device']}, {machine['threads']} threads, {machine['precision']}: "
        f"{machine['gflops']:,} GFLOP/s in matrix products",
        file=sys.stderr,
    )
    lines = []
    for name in parsed.only:
        for row in measure(name, machine, parsed.turns):
            print(json.dumps({"benchmark": "bench", **asdict(row), "machine": machine}), flush=True)
            lines.append(as_line(row))
    print(HEADER, *lines, sep="\n", file=sys.stderr)
    return 0


def measure(name: str, machine: Mapping[str, Any], n_turns: int | None) -> "list[Row]":
    """Return the rows of one of the measurements `ALL`."""
    if name == GENERATE:
        from benchmarks import generation

        return generation.measure(n_turns)
    if name == TOKENIZE:
        from benchmarks import tokenizing

        return tokenizing.measure(n_turns)
    from benchmarks import side_by_side

    return side_by_side.training(name, SHAPES[name], machine, n_turns)


HEADER = f"{'what':<25} {'ours':>9} {'peer':>9} {'unit':<9} {'ours / peer':<22} peer"


def as_line(row: "Row") -> str:
    """Format a row of the table: medians, and the ratio with its lowest and highest value."""
    found = row.ratio
    spread = f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
    ours, theirs = (
        f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        for rate in (row.ours["median"], row.theirs["median"])
    )
    return f"{row.what:<25} {ours:>9} {theirs:>9} {row.unit:<9} {spread:<22} {row.peer}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL, help="some of the measurements")
    parser.add_argument(
        "--turns", type=count, help="turns of each loop (3, or fewer where they take more than 40 seconds)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
