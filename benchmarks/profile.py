"""Profile training steps of a stage (`make profile`).

    python -m benchmarks.profile
    python -m benchmarks.profile size=small task=masked_lm trainer.precision=fp32 --steps 10
    python -m benchmarks.profile --stage finetune-classify init_from=NAME data=sst2

The stage is `pretrain`, or `finetune-TASK`; the overrides are those of its command, on its real rows and with
everything that training does. Some steps are timed, phase by phase; as many more are then profiled by PyTorch
on the CPU, which slows them down. The loss computes its gradients in the forward pass. The run is not
recorded, and its folder is removed.

Standard output has one line of JSON, and standard error the same in words.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.arguments import count
from pipeline.errors import UserError
from pipeline.tuning import tune_process

STAGES = ("pretrain", "finetune")


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile, print the results, and return the exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    stage, _, task = parsed.stage.partition("-")
    if stage not in STAGES or (stage == "finetune" and not task):
        parser.error(
            f"STAGE={parsed.stage} cannot be profiled; choose pretrain, pretrain-TASK or finetune-TASK"
        )
    tune_process()
    from benchmarks.step_profile import profile_steps

    try:
        found = profile_steps(stage, [*([f"task={task}"] if task else []), *parsed.overrides], parsed.steps)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"benchmark": "profile", "stage": parsed.stage, **found}))
    print(in_words(found), file=sys.stderr)
    return 0


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
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for the command of the stage")
    parser.add_argument("--stage", default="pretrain", help="pretrain, pretrain-TASK or finetune-TASK")
    parser.add_argument("--steps", type=count, default=10, help="training steps (10)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
