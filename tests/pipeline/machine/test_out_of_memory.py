"""Memory that ran out is recognized by the errors of those that failed to allocate it."""

import errno
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.machine.options import TrainerOptions
from pipeline.machine.out_of_memory import is_out_of_memory, out_of_memory, out_of_memory_in_training

TOO_MUCH = 2**60


def error_of_torch() -> BaseException:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(TOO_MUCH, dtype=torch.uint8)
    return caught.value


def error_of_numpy() -> BaseException:
    with pytest.raises(MemoryError) as caught:
        np.empty(TOO_MUCH, np.uint8)
    return caught.value


ON_GPU = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.64 GiB, 1 MiB is free."
)


def test_the_amount_is_told_if_it_is_known() -> None:
    for error, amount in (
        (error_of_torch(), f"{TOO_MUCH} bytes"),
        (error_of_numpy(), "1.00 EiB"),
        (ON_GPU, "2.50 GiB"),
    ):
        assert is_out_of_memory(error)
        assert f"memory ran out: {amount} could not be allocated\nhint: " in str(out_of_memory(error))
    for error in (
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ):
        assert is_out_of_memory(error)
    assert str(out_of_memory(MemoryError())).startswith("memory ran out\nhint: ")


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError(), OSError()]
)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("options", "rows", "resumes", "hint"),
    [
        ({"batch_size": 8}, "8 rows", "mine",
         "use resume=mine with trainer.batch_size=4 trainer.accumulate=2 or "
         "trainer.activation_checkpointing=full, for the same steps with less memory"),
        ({"batch_size": 9, "accumulate": 2, "activation_checkpointing": "full"}, "9 rows", None,
         "use trainer.batch_size=3 trainer.accumulate=6, for the same steps with less memory"),
        ({"batch_size": 1, "activation_checkpointing": "full"}, "1 row", None,
         "use a smaller model (size=NAME)"),
    ],
)  # fmt: skip
def test_in_training_the_hint_names_options_that_need_less(
    options: dict[str, Any], rows: str, resumes: str | None, hint: str
) -> None:
    trainer = TrainerOptions(**options)
    error = out_of_memory_in_training(ON_GPU, trainer, step=4, resumes=resumes, has_size=True)
    assert error.sentence == (
        f"memory ran out in step 5, with {rows} per forward pass: 2.50 GiB could not be allocated; "
        "expected a step that fits into memory"
    )
    assert error.remedy == hint
    without_size = out_of_memory_in_training(ON_GPU, trainer, step=4, resumes=None, has_size=False)
    assert "size=NAME" not in without_size.remedy
