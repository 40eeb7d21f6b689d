"""Train Prelude and its peers for the same time, and compare bits per byte of text that none has seen.

    make bench-ten-minutes
    python -m benchmarks.ten_minutes --minutes 2 --data tinyshakespeare
    python -m benchmarks.ten_minutes --experiment tinyshakespeare_char --peer-minutes 50 --peers plain

Each is a process of its own that starts from new weights and has the same tokens: those that Prelude makes
of the corpus, which are prepared before. All have the same shape, batch and precision: four layers of width
128 and 8 rows of 256 tokens, or those of an experiment. The peers are a plain loop like nanoGPT's, GPT-2 with
the Trainer of `transformers`, and litgpt if `make bench-peers` has installed it, each with AdamW and a cosine
over its time; they are stopped at the end of the time and then evaluated. Prelude is `pretrain` with its
default recipe. Two short runs first measure how many steps fit, and the whole command ends within the time,
evaluation included; if it does not, since the machine has become slower, it is repeated with fewer steps.

Standard output has one line of JSON per contender, and standard error a table at the end.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.shapes import Shape
from pipeline.tuning import tune_process

#: The shape, unless an experiment has its own.
SHAPE = Shape(n_layers=4, d_model=128, n_heads=4, block=256, batch=8, vocab_size=4096)
#: Rows that all are evaluated on.
HELD_OUT_ROWS = 400
#: The lengths of the runs that measure how long a step and everything else takes.
PROBE_STEPS = (20, 220)
#: The part of the steps that should fit, which is made: a machine is not equally fast at all times.
MARGIN = 0.97


def main(arguments: Sequence[str] | None = None) -> int:
    """Train all, print the results, and return the exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    tune_process()
    from benchmarks.machine import describe
    from benchmarks.peers.process import LITGPT
    from benchmarks.peers.timed import PEERS

    if unknown := set(parsed.peers or ()) - set(PEERS):
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}; choose from {', '.join(PEERS)}")
    machine, seconds = describe(), 60 * parsed.minutes
    peer_seconds = 60 * (parsed.peer_minutes or parsed.minutes)
    trained = [f"data={parsed.data}", *SHAPE.overrides()]
    if parsed.experiment:
        trained = [f"experiment={parsed.experiment}"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        overrides = [
            *(*trained, f"trainer.val_rows={HELD_OUT_ROWS}"),
            *("tracking=off", f"runs_dir={folder / 'runs'}", f"trainer.precision={machine['precision']}"),
        ]
        _write_rows(overrides, folder)
        print(f"training ours for {seconds:g} s, then each peer for {peer_seconds:g} s", file=sys.stderr)
        found = {"ours": train_ours(overrides, seconds)}
        # The same for all, because their labels are the same.
        nats_per_bit = found["ours"]["loss"] / found["ours"]["bits_per_byte"]
        _print("ours", found["ours"], machine, seconds)
        for peer in parsed.peers or PEERS:
            python = str(LITGPT) if peer == "litgpt" else sys.executable
            if not Path(python).exists():
                continue
            found[peer] = _peer(python, peer, folder, peer_seconds, machine["precision"])
            found[peer]["bits_per_byte"] = found[peer]["loss"] / nats_per_bit
            _print(peer, found[peer], machine, peer_seconds)
    print(*table(found), sep="\n", file=sys.stderr)
    return 0


def table(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the lines of the table; the last column is how much lower ours is."""
    ours = found["ours"]["bits_per_byte"]
    lines = [f"{'':<10} {'steps':>8} {'nats per token':>15} {'bits per byte':>14}  ours is lower by"]
    for name, one in found.items():
        lower = "" if name == "ours" else f"  {1 - ours / one['bits_per_byte']:.1%}"
        lines.append(
            f"{name:<10} {one['steps']:>8,} {one['loss']:>15.4f} {one['bits_per_byte']:>14.4f}{lower}"
        )
    return lines


def train_ours(overrides: Sequence[str], seconds: float) -> dict[str, Any]:
    """Train with as many steps as fit into the time, and return the results.

    Raises:
        SystemExit: the time is too short for any step.
    """
    short, long = (_pretrain(overrides, n)[1] for n in PROBE_STEPS)
    step_s = (long - short) / (PROBE_STEPS[1] - PROBE_STEPS[0])
    rest_s = short - PROBE_STEPS[0] * step_s
    n_steps = int(MARGIN * (seconds - rest_s) / step_s)
    if n_steps < 1:
        sys.exit(f"error: {seconds:.0f} s are too short; start and evaluation alone take {rest_s:.0f} s")
    metrics, took_s = _pretrain(overrides, n_steps)
    while took_s > seconds:
        print(f"{n_steps:,} steps took {took_s:.0f} s; training ours again with fewer", file=sys.stderr)
        n_steps = int(MARGIN * n_steps * seconds / took_s)
        metrics, took_s = _pretrain(overrides, n_steps)
    return {
        "steps": n_steps,
        "loss": metrics["val/loss"],
        "bits_per_byte": metrics["val/bits_per_byte"],
        "ended_s": round(took_s, 1),
    }


def _pretrain(overrides: Sequence[str], n_steps: int) -> tuple[dict[str, float], float]:
    """Run `pretrain`; return its metrics and the seconds of the whole process."""
    words = [*overrides, f"trainer.max_steps={n_steps}", f"trainer.val_every_steps={n_steps}"]
    started = time.monotonic()
    result = _result([sys.executable, "-m", "pipeline", "--json", "pretrain", *words])
    return result["metrics"], time.monotonic() - started


def _peer(python: str, name: str, folder: Path, seconds: float, precision: str) -> dict[str, Any]:
    words = [name, str(folder), repr(time.time()), str(seconds), precision]
    return _result([python, "-m", "benchmarks.peers.timed", *words])


def _result(command: Sequence[str]) -> dict[str, Any]:
    """Run a command, and return the JSON object in the last line of its standard output.

    Raises:
        SystemExit: the command failed; with its messages.
    """
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{done.stderr}error: {' '.join(command)} exited with code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _write_rows(overrides: Sequence[str], folder: Path) -> None:
    """Write the token rows of the corpus, and the shape, for the peers."""
    import numpy as np

    from datamodules.collate import RowBatch, collate_causal
    from pipeline.config.compose import compose
    from pipeline.config.construct import construct
    from pipeline.machine.options import TrainerOptions
    from pipeline.prepare import build_rows, build_tokenizer, load_corpus

    config = compose("pretrain", overrides)
    options = construct(config.trainer, TrainerOptions)
    corpus, _ = load_corpus(config)
    tokenizer = build_tokenizer(config, corpus)
    shape = Shape(
        n_layers=config.size.n_layers, d_model=config.size.d_model, n_heads=config.size.n_heads,
        block=config.size.max_seq_len, batch=options.batch_size, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    splits = build_rows(config, options, corpus, tokenizer, construct(config.task), max_seq_len=shape.block)
    for split, rows in zip(("train", "held_out"), splits, strict=True):
        ids, segment_ids = rows.take(np.arange(len(rows)))
        batch = collate_causal(RowBatch(ids, segment_ids, np.arange(len(rows))))
        np.save(folder / f"{split}_ids.npy", batch["input_ids"].numpy().astype(np.int32))
        np.save(folder / f"{split}_labels.npy", batch["labels"].numpy().astype(np.int32))
    (folder / "shape.json").write_text(json.dumps(asdict(shape)), encoding="utf-8")


def _print(name: str, found: Mapping[str, Any], machine: Mapping[str, Any], seconds: float) -> None:
    line = {"benchmark": "ten_minutes", "seconds": seconds, "name": name, **found, "machine": machine}
    print(json.dumps(line), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ten_minutes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="time of each (10)")
    parser.add_argument("--peer-minutes", type=float, help="time of each peer, if it is not the same")
    parser.add_argument("--peers", nargs="+", help="some of the peers (all that are installed)")
    trained = parser.add_mutually_exclusive_group()
    trained.add_argument("--data", default="english_novels", help="the corpus (english_novels)")
    trained.add_argument("--experiment", help="an experiment, which names the corpus and the shape")
    return parser


if __name__ == "__main__":
    sys.exit(main())
