"""Recognize that memory ran out, and say which options need less of it."""

import re
import sys

from pipeline.errors import PipelineError, RunError
from pipeline.machine.options import TrainerOptions


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed: on a GPU, by PyTorch on the CPU, or by Python or NumPy."""
    torch = sys.modules.get("torch")  # only code that has imported it can fail in it
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    # PyTorch has no class for a failed allocation on the CPU.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def out_of_memory(error: BaseException) -> PipelineError:
    """Return an error that says what could not be allocated, outside training."""
    return PipelineError(
        f"memory ran out{_amount(error)}",
        "",
        "close other programs, use a smaller model, or process fewer rows or tokens at once",
    )


def out_of_memory_in_training(error: BaseException, options: TrainerOptions, step: int) -> RunError:
    """Return an error that says in which step memory ran out, and which options need less.

    Args:
        step: the number of steps that were completed.
    """
    rows = "1 row" if options.batch_size == 1 else f"{options.batch_size} rows"
    return RunError(
        f"memory ran out in step {step + 1}, with {rows} per forward pass{_amount(error)}",
        "a step that fits into memory",
        f"{_remedy(options)}; `make estimate` with the same keys says what fits",
    )


def _amount(error: BaseException) -> str:
    """Return the size of the allocation that failed, if the message names it."""
    found = re.search(r"allocate ([\d.]+ ?[KMGTPE]?i?B|\d+ bytes)", str(error), re.IGNORECASE)
    return f": {found.group(1)} could not be allocated" if found else ""


def _remedy(options: TrainerOptions) -> str:
    """Return the options that need less memory: first those that lead to the same losses."""
    found = []
    fewer = _largest_divisor(options.batch_size)
    if fewer is not None:
        accumulate = options.accumulate * options.batch_size // fewer
        found.append(f"trainer.batch_size={fewer} trainer.accumulate={accumulate} for the same steps")
    if options.activation_checkpointing != "full":
        found.append("trainer.activation_checkpointing=full")
    found.append("a smaller model (size=NAME)" if found else "a smaller model with size=NAME")
    return f"use {', or '.join(found)}"


def _largest_divisor(number: int) -> int | None:
    """Return the largest divisor of `number` that is less than `number`; None if there is none."""
    return next((each for each in range(number // 2, 0, -1) if number % each == 0), None)
