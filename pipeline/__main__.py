"""`python -m pipeline STAGE [key=value ...]`: what every Make target calls.

Standard output carries results only (with `--json` one JSON object as its last line); progress and talk go to
standard error. Exit codes: 0 done, 2 something the user gave is wrong, 130 and 143 stopped by a signal.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from pipeline.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage or command; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        return _dispatch(parsed.stage, parsed.overrides, as_json=parsed.json)
    except UserError as error:
        if os.environ.get("DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        if os.environ.get("DEBUG"):
            raise
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(stage: str, overrides: Sequence[str], *, as_json: bool) -> int:
    from pipeline.config import compose

    if stage == "show-config":
        return _show_config(overrides)
    config = compose(stage, overrides)
    if "model" in config:
        from pipeline.build import check_model

        check_model(config)
    from pipeline.stages import find_stage

    result = find_stage(stage)(config)
    if as_json:
        print(result.to_json())
    elif result.output:
        print("\n\n".join(result.output))
    return 0


def _show_config(overrides: Sequence[str]) -> int:
    """Print the configuration of a stage: `stage=NAME`, or pretrain."""
    from omegaconf import OmegaConf

    from pipeline.config import compose

    stages = [override.removeprefix("stage=") for override in overrides if override.startswith("stage=")]
    others = [override for override in overrides if not override.startswith("stage=")]
    print(OmegaConf.to_yaml(compose(stages[-1] if stages else "pretrain", others)), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    from pipeline.config import groups, stage_titles

    titles = {
        **stage_titles(),
        "show-config": "Print the configuration of a stage (stage=NAME; else pretrain)",
    }
    stages = "\n".join(f"  {word:<12} {title}" for word, title in titles.items())
    options = "\n".join(
        f"  {group:<12} {', '.join(names)}" for group, names in groups().items() if group != "stage"
    )
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="Prelude: from raw text to a trained, tracked, comparable transformer.",
        epilog=f"stages:\n{stages}\n\n"
        f"groups (choose with group=option; change one key with group.key=value):\n{options}\n\n"
        "example: python -m pipeline pretrain task=masked_lm size=small trainer.max_steps=500",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", help="what to do, see below")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line of output"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
