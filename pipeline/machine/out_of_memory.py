"""Recognize that memory ran out, and say which options need less of it."""

import errno
import re
import sys

from pipeline.errors import PipelineError, RunError
from pipeline.machine.options import TrainerOptions

#: Parts of the messages of allocations that fail without an exception class of their own.
MESSAGES = ("DefaultCPUAllocator", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed: on a GPU, or by PyTorch, NumPy, Python or the system."""
    torch = sys.modules.get("torch")  # only code that has imported it can fail in it
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(part in str(error) for part in MESSAGES)


def out_of_memory(error: BaseException) -> PipelineError:
    """Return an error that says what could not be allocated, outside training."""
    return PipelineError(
        f"memory ran out{_amount(error)}",
        "",
        "close other programs, use a smaller model, or process fewer rows or tokens at once",
    )


def out_of_memory_in_training(
    error: BaseException, options: TrainerOptions, *, step: int, resumes: str | None, has_size: bool
) -> RunError:
    """Return an error that says in which step memory ran out, and which options need less.

    Args:
        step: the number of steps that were completed.
        resumes: the name of the run, if it can be resumed.
        has_size: whether the size of the model is an option, unlike that of a bundle.
    """
    rows = "1 row" if options.batch_size == 1 else f"{options.batch_size} rows"
    return RunError(
        f"memory ran out in step {step + 1}, with {rows} per forward pass{_amount(error)}",
        "a step that fits into memory",
        _remedy(options, resumes, has_size=has_size),
    )


def _amount(error: BaseException) -> str:
    """Return the size of the allocation that failed, if the message names it."""
    found = re.search(r"allocate ([\d.]+ (?:bytes|[KMGTPE]?i?B))\b", str(error), re.IGNORECASE)
    return f": {found.group(1)} could not be allocated" if found else ""


def _remedy(options: TrainerOptions, resumes: str | None, *, has_size: bool) -> str:
    """Return the options that need less memory for the same steps or, if there are none, a smaller model."""
    found = []
    fewer = _largest_divisor(options.batch_size)
    if fewer is not None:
        accumulate = options.accumulate * options.batch_size // fewer
        found.append(f"trainer.batch_size={fewer} trainer.accumulate={accumulate}")
    if options.activation_checkpointing != "full":
        found.append("trainer.activation_checkpointing=full")
    if not found:
        return "use a smaller model (size=NAME)" if has_size else "use a smaller model"
    resumed = "" if resumes is None else f"resume={resumes} with "
    return f"use {resumed}{' or '.join(found)}, for the same steps with less memory"


def _largest_divisor(number: int) -> int | None:
    """Return the largest divisor of `number` that is less than `number`; None if there is none."""
    return next((each for each in range(number // 2, 0, -1) if number % each == 0), None)
