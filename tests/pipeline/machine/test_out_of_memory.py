"""Memory that ran out is recognized by the errors of those that failed to allocate it."""

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
    assert str(out_of_memory(MemoryError())).startswith("memory ran out\nhint: ")


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError(), OSError()]
)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("options", "rows", "remedy"),
    [
        ({"batch_size": 8}, "8 rows", "use trainer.batch_size=4 trainer.accumulate=2 for the same steps, or "
         "trainer.activation_checkpointing=full, or a smaller model (size=NAME)"),
        ({"batch_size": 9, "accumulate": 2, "activation_checkpointing": "full"}, "9 rows",
         "use trainer.batch_size=3 trainer.accumulate=6 for the same steps, or a smaller model (size=NAME)"),
        ({"batch_size": 1, "activation_checkpointing": "full"}, "1 row",
         "use a smaller model with size=NAME"),
    ],
)  # fmt: skip
def test_in_training_the_hint_names_options_that_need_less(options: dict, rows: str, remedy: str) -> None:
    error = out_of_memory_in_training(ON_GPU, TrainerOptions(**options), 4)
    assert error.sentence == (
        f"memory ran out in step 5, with {rows} per forward pass: 2.50 GiB could not be allocated; "
        "expected a step that fits into memory"
    )
    assert error.remedy == f"{remedy}; `make estimate` with the same keys says what fits"
