"""FinetuneDataModule: batches of like lengths, resumed exactly, and each validation example once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.collate import Batch
from datamodules.datamodule import FinetuneDataModule
from datamodules.features import Feature, Features, pad, padded_width
from tests.datamodules.test_datamodule import KillAfter, KilledError, Toy, trainer_in

# Of Lightning itself, with this torch.
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")

N_TRAIN, N_VALIDATION, BATCH_SIZE = 45, 11, 4


def examples(n: int, seed: int) -> Features:
    random = np.random.default_rng(seed)
    return Features.of(
        {"input_ids": random.integers(0, 300, random.integers(1, 60)), "number": [number]}
        for number in range(n)
    )


def collate(features: Sequence[Feature]) -> Batch:
    return {
        "input_ids": torch.from_numpy(pad([feature["input_ids"] for feature in features], value=0)),
        "keys": torch.from_numpy(np.concatenate([feature["number"] for feature in features])),
    }


def datamodule(**options: Any) -> FinetuneDataModule:
    return FinetuneDataModule(
        examples(N_TRAIN, 0),
        examples(N_VALIDATION, 1),
        collate=collate,
        batch_size=BATCH_SIZE,
        seed=5,
        **options,
    )


def run(folder: Path, kills: list[int], *, num_workers: int, max_steps: int = 24) -> Toy:
    seen: list[list[Any]] = []
    checkpoint: Path | None = None
    for step in [*kills, None]:
        toy, path = Toy(), folder / f"{step}.ckpt"
        callbacks = [KillAfter(step, path)] if step is not None else []
        trainer = trainer_in(folder, max_steps=max_steps, callbacks=[*callbacks], val_check_interval=8)
        data = datamodule(num_workers=num_workers)
        if step is None:
            trainer.fit(toy, data, ckpt_path=checkpoint, weights_only=True)
        else:
            with pytest.raises(KilledError):
                trainer.fit(toy, data, ckpt_path=checkpoint, weights_only=True)
        seen += toy.trained
        checkpoint = path
    toy.trained = seen
    return toy


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_after_two_resumes_equal_those_of_an_uninterrupted_run(
    tmp_path: Path, num_workers: int
) -> None:
    # An epoch is 11.25 batches: the kills lie in the first epoch and beyond a border.
    whole = run(tmp_path, [], num_workers=0)
    parts = run(tmp_path, [3, 14], num_workers=num_workers)
    assert len(whole.trained) == 24
    assert parts.trained == whole.trained
    assert torch.equal(parts.weight, whole.weight)
    keys = [key for batch, _ in whole.trained for key in batch]
    assert sorted(keys[:N_TRAIN]) == sorted(keys[N_TRAIN : 2 * N_TRAIN]) == list(range(N_TRAIN))


def test_validation_sees_every_example_once_the_longest_first(tmp_path: Path) -> None:
    _, *validations = run(tmp_path, [], num_workers=0).validated
    assert len(validations) == 3
    seen = [key for keys, _ in validations[0] for key in keys]
    assert sorted(seen) == list(range(N_VALIDATION))
    lengths = examples(N_VALIDATION, 1).lengths[seen].tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert all(validation == validations[0] for validation in validations)


def test_the_position_is_that_of_training_not_of_prefetching(tmp_path: Path) -> None:
    data = datamodule(num_workers=2)
    trainer_in(tmp_path, max_steps=5).fit(Toy(), data)
    assert data.state_dict() == {"rows_done": 5 * BATCH_SIZE, "first_rows_per_pass": BATCH_SIZE}


def test_batches_of_another_size_continue_the_order_of_the_first_ones() -> None:
    def keys(data: FinetuneDataModule, n_batches: int) -> list[int]:
        batches = zip(data.train_dataloader(), range(n_batches), strict=False)
        return [key for batch, _ in batches for key in batch["keys"].tolist()]

    whole = keys(datamodule(curriculum_batches=2), 12)
    data = datamodule(curriculum_batches=4)  # of half as many rows
    data.batch_size = 2
    data.load_state_dict({"rows_done": 4, "first_rows_per_pass": 4})
    assert keys(data, 22) == whole[4:]


def test_an_epoch_is_as_many_batches_as_hold_every_example() -> None:
    seen = set()
    for batch, _ in zip(datamodule().train_dataloader(), range(12), strict=False):
        seen |= set(batch["keys"].tolist())
    assert seen == set(range(N_TRAIN))


def test_the_loaders_give_what_collate_made_without_a_trainer() -> None:
    data = datamodule()
    batches = list(data.val_dataloader())
    assert len(batches) == len(data.val_dataloader()) == 3
    lengths = examples(N_VALIDATION, 1).lengths_of("input_ids")
    longest = [int(lengths[batch["keys"].numpy()].max()) for batch in batches]
    assert [batch["input_ids"].shape[1] for batch in batches] == [padded_width(each) for each in longest]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": -1}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        FinetuneDataModule(examples(3, 0), examples(3, 0), collate=collate, seed=0, **wrong)
