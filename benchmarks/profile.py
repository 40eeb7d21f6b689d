"""Profile a pretraining step (`make profile`).

    python -m benchmarks.profile
    python -m benchmarks.profile size=small task=masked_lm trainer.precision=fp32 --steps 10

The overrides are those of `make pretrain`. Steps run in a plain loop on rows of random tokens, and are
profiled by PyTorch on the CPU. The loss computes its gradients in the forward pass.

Standard output has one line of JSON, and standard error the same in words.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.arguments import count
from pipeline.errors import UserError
from pipeline.tuning import tune_process

if TYPE_CHECKING:
    from torch.profiler import profile

N_WARMUP_STEPS = 3

#: Kind of operation -> prefixes of the names of operations; the first match counts.
KINDS = {
    "attention": ("aten::_scaled_dot_product", "aten::_softmax", "aten::bmm", "aten::baddbmm"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::linear"),
    "loss": ("aten::_log_softmax", "aten::nll_loss", "_ChunkedNats"),
    "norms": ("_RMSNorm", "aten::native_layer_norm", "aten::_fused_rms_norm", "aten::linalg_vector_norm"),
    "copies and casts": ("aten::copy_", "aten::_to_copy", "aten::clone", "aten::cat", "aten::contiguous"),
    "memory": ("aten::empty", "aten::zero", "aten::fill_"),
    "data": ("enumerate(DataLoader)",),
}
REST = "elementwise operations and Python"


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile, print the results, and return the exit code."""
    parsed = _parser().parse_args(arguments)
    tune_process()
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.training import Training

    try:
        training = Training(
            parsed.overrides,
            document_tokens=parsed.document_tokens,
            max_steps=N_WARMUP_STEPS + 2 * parsed.steps,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    training.run_plainly(N_WARMUP_STEPS)
    measured = training.run_plainly(parsed.steps)  # without the profiler, which slows steps down
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        training.run_plainly(parsed.steps)
    found = {
        "benchmark": "profile",
        "overrides": " ".join(parsed.overrides),
        "precision": training.precision,
        "parameters": training.n_parameters,
        "step_s": round(measured.seconds / parsed.steps, 4),
        "tokens_per_second": round(measured.tokens_per_second),
        "phases": shares(phases(profiled)),
        "kinds": shares(kinds(profiled)),
    }
    print(json.dumps(found))
    print(in_words(found), file=sys.stderr)
    return 0


def phases(profiled: "profile") -> Counter[str]:
    """Return the time of each phase of a step, in microseconds."""
    found: Counter[str] = Counter()
    for event in profiled.key_averages():
        found["all"] += event.self_cpu_time_total
        if event.key.startswith("autograd::engine::evaluate_function"):
            found["backward"] += event.cpu_time_total
        elif event.key.startswith("Optimizer.step#"):
            # An optimizer may call another one; the time of the outer one includes both.
            found["optimizer"] = max(found["optimizer"], event.cpu_time_total)
        elif event.key.startswith("enumerate(DataLoader)"):
            found["data"] += event.cpu_time_total
    found["forward, clipping and the rest"] = found.pop("all") - found.total()
    return found


def kinds(profiled: "profile") -> Counter[str]:
    """Return the time of each kind of operation without nested ones, in microseconds."""
    found: Counter[str] = Counter()
    for event in profiled.key_averages():
        fitting = (kind for kind, names in KINDS.items() if event.key.startswith(names))
        found[next(fitting, REST)] += event.self_cpu_time_total
    return found


def shares(found: Counter[str]) -> dict[str, float]:
    """Return each count as a fraction of the total, largest first."""
    total = found.total()
    return {name: round(value / total, 3) for name, value in found.most_common()}


def in_words(found: dict[str, Any]) -> str:
    """Describe the results in sentences."""
    lines = [
        f"A step takes {1000 * found['step_s']:,.0f} ms: {found['tokens_per_second']:,} tokens per second in "
        f"{found['precision']}, {found['parameters']:,} parameters.",
        "By phase:  " + ", ".join(f"{name} {share:.0%}" for name, share in found["phases"].items()) + ".",
        "By kind:   " + ", ".join(f"{name} {share:.0%}" for name, share in found["kinds"].items()) + ".",
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for make pretrain")
    parser.add_argument("--steps", type=count, default=10, help="training steps (10)")
    parser.add_argument("--document-tokens", type=count, default=150, help="tokens of a document (150)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
