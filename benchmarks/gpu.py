"""Compare estimates with what training takes on one GPU (`make bench-gpu`), in at most six minutes.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --only 124M --no-peer

For decoders of 124 M, 350 M and 1 B parameters, without and with activation checkpointing: the peak memory
that `make estimate` predicts and `torch.cuda.max_memory_allocated`, the predicted and the measured time per
step, tokens per second, and the share of the GPU's peak (MFU). Next to each is GPT-2 of `transformers` with
its Trainer, bf16 and fused AdamW, if it is installed. On a CPU, which counts no memory, only times are
compared, and `--only tiny` is quick.

Standard output has one line of JSON per measurement, and standard error a table.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.arguments import count
from benchmarks.shapes import Shape
from pipeline.tuning import tune_process
from pipeline.words import size_words

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not wait for it
    import torch

SHAPES = {
    "124M": Shape(n_layers=12, d_model=768, n_heads=12, block=1024, batch=16, vocab_size=50304),
    "350M": Shape(n_layers=24, d_model=1024, n_heads=16, block=1024, batch=8, vocab_size=50304),
    "1B": Shape(n_layers=18, d_model=2048, n_heads=16, block=1024, batch=4, vocab_size=50304),
    "tiny": Shape(n_layers=2, d_model=32, n_heads=2, block=64, batch=4, vocab_size=400),
}
LARGE = ("124M", "350M", "1B")
RECOMPUTE = ("none", "full")

#: No measurement is started later than this, in seconds.
LIMIT_S = 330.0
N_WARMUP_STEPS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the results, and return the exit code."""
    parsed = _parser().parse_args(arguments)
    tune_process()
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ends = time.monotonic() + LIMIT_S
    print(HEADER, file=sys.stderr)
    for name, measure in _measurements(parsed.only, parsed.steps, device, has_peer=not parsed.no_peer):
        if time.monotonic() > ends:
            print(f"{name}: left out, for {LIMIT_S:.0f} s have passed", file=sys.stderr)
            continue
        _free(device)
        try:
            found = measure()
        except torch.OutOfMemoryError:
            print(f"{name}: does not fit into memory", file=sys.stderr)
            continue
        print(json.dumps({"benchmark": "gpu", "name": name, **found}), flush=True)
        print(as_line(name, found), file=sys.stderr, flush=True)
    return 0


def _measurements(
    names: Sequence[str], n_steps: int, device: "torch.device", *, has_peer: bool
) -> Iterator[tuple[str, Any]]:
    """Yield the name of each measurement, and the function that makes it."""
    for name in names:
        shape = SHAPES[name]
        for recompute in RECOMPUTE:
            yield (
                f"{name}, checkpointing {recompute}",
                lambda recompute=recompute, shape=shape: measure_own(shape, recompute, n_steps, device),
            )
        if has_peer and find_spec("transformers") is not None:
            yield f"{name}, transformers", lambda shape=shape: measure_peer(shape, n_steps, device)


def measure_own(shape: Shape, recompute: str, n_steps: int, device: "torch.device") -> dict[str, Any]:
    """Estimate a training of Prelude, and measure it."""
    from benchmarks.training import Training
    from pipeline.config.compose import compose
    from pipeline.estimate.estimation import estimate_of

    words = [*shape.overrides(), f"trainer.activation_checkpointing={recompute}"]
    estimate = estimate_of(compose("estimate", words))
    _free(device)
    training = Training(words, document_tokens=300, max_steps=N_WARMUP_STEPS + n_steps)
    measured = training.run_bare(n_steps, n_warmup_steps=N_WARMUP_STEPS)
    step_s = measured.seconds / n_steps
    known = estimate.devices.accelerator
    flops = estimate.work.flops * shape.batch
    return {
        "parameters": training.n_parameters,
        "precision": training.precision,
        "estimated_peak_bytes": estimate.peak_bytes,
        "peak_bytes": _peak(device),
        "estimated_step_s": None if estimate.speed is None else estimate.speed.step_s,
        "step_s": step_s,
        "tokens_per_second": round(measured.tokens_per_second),
        "mfu": None if known is None else flops / step_s / known.flops_per_s,
    }


def measure_peer(shape: Shape, n_steps: int, device: "torch.device") -> dict[str, Any]:
    """Measure the Trainer of `transformers` on a GPT-2 of the same shape."""
    from benchmarks.peers.trainer import TrainerLoop
    from modules.hardware import multiplies_bf16_fast
    from pipeline.machine.accelerators import accelerator_called

    bf16 = multiplies_bf16_fast(device)
    with tempfile.TemporaryDirectory() as folder:
        step_s = TrainerLoop(shape, bf16=bf16, device=device, folder=Path(folder)).run(n_steps) / n_steps
    known = None
    if device.type == "cuda":
        import torch

        known = accelerator_called(torch.cuda.get_device_name())
    return {
        "precision": "bf16" if bf16 else "fp32",
        "peak_bytes": _peak(device),
        "step_s": step_s,
        "tokens_per_second": round(shape.tokens / step_s),
        "mfu": None if known is None else shape.flops / step_s / known.flops_per_s,
    }


def _free(device: "torch.device") -> None:
    """Return all memory to the device, and start counting anew."""
    gc.collect()
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: "torch.device") -> int | None:
    """Return the most bytes in use since `_free`; None on a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated()


HEADER = (
    f"{'':28} {'peak memory':>12} {'estimated':>12} {'':>7} {'s a step':>9} {'estimated':>9} {'':>7} "
    f"{'tokens/s':>10} {'MFU':>6}"
)


def as_line(name: str, found: dict[str, Any]) -> str:
    """Format a measurement as a line of the table."""
    memory = _pair(found, "peak_bytes", size_words, 12)
    seconds = _pair(found, "step_s", lambda value: f"{value:.3g}", 9)
    share = "" if found["mfu"] is None else f"{found['mfu']:.1%}"
    return f"{name:28} {memory} {seconds} {found['tokens_per_second']:>10,} {share:>6}"


def _pair(found: dict[str, Any], name: str, shown: Any, width: int) -> str:
    """Format a measured value, its estimate, and the difference."""
    measured, estimated = found.get(name), found.get(f"estimated_{name}")
    cells = ["" if value is None else shown(value) for value in (measured, estimated)]
    difference = "" if measured is None or estimated is None else f"{measured / estimated - 1:+.1%}"
    return f"{cells[0]:>{width}} {cells[1]:>{width}} {difference:>7}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=LARGE, help="sizes (124M 350M 1B)")
    parser.add_argument("--steps", type=count, default=10, help="timed steps (10)")
    parser.add_argument("--no-peer", action="store_true", help="leave out transformers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
