import json
import multiprocessing
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.cache import TokenCache, TokenRows
from datamodules.collate import Batch, RowBatch, collate_masked
from datamodules.corruption import TokenTable
from datamodules.datamodule import PretrainDataModule
from datamodules.packing import pack
from datamodules.sampling import ResumableBatchSampler
from datamodules.tokenizer import Bytes

# Of Lightning itself, with this torch.
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")

ROOT = Path(__file__).parents[2]
TOKENS = TokenTable.of(Bytes().train([]))
N_ROWS = 23
BATCH_SIZE = 4


def collate_with_keys(rows: RowBatch, *, seed: int) -> Batch:
    """A real batch that also says which samples it holds."""
    return collate_masked(rows, tokens=TOKENS, seed=seed) | {"keys": torch.from_numpy(rows.keys)}


def rows_in(folder: Path, n_rows: int) -> TokenRows:
    documents = [np.random.default_rng(i).choice(TOKENS.ordinary_ids, 16) for i in range(n_rows)]

    def build(writer: Any) -> dict[str, Any]:
        for ids, segments in pack(documents, row_tokens=16, pad_id=TOKENS.pad_id):
            writer.write(ids, segments)
        return {}

    return TokenCache(folder).get_or_build(f"rows{n_rows}", {}, build, vocab_size=300)


def datamodule_in(folder: Path, **options: Any) -> PretrainDataModule:
    return PretrainDataModule(
        rows_in(folder, N_ROWS),
        rows_in(folder, 11),
        collate=partial(collate_with_keys, seed=0),
        validation_collate=partial(collate_with_keys, seed=1),
        batch_size=BATCH_SIZE,
        validation_batch_size=4,
        seed=5,
        **options,
    )


class Toy(LightningModule):
    """Writes down what it was trained and validated on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(300))
        self.trained: list[list[Any]] = []
        self.validated: list[list[Any]] = []
        self.validation_steps: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.trained.append([batch["keys"].tolist(), batch["input_ids"].tolist()])
        return self.weight[batch["input_ids"]].square().mean() + self.weight[7]

    def on_validation_epoch_start(self) -> None:
        if not self.trainer.sanity_checking:
            self.validation_steps.append(self.trainer.global_step)
        self.validated.append([])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated[-1].append([batch["keys"].tolist(), batch["input_ids"].tolist()])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class KilledError(Exception):
    """What ends a run in these tests."""


class KillAfter(Callback):
    """Save at an optimizer step and end the run there, without a farewell."""

    def __init__(self, step: int, path: Path) -> None:
        self.step = step
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step and not trainer.fit_loop._should_accumulate():
            trainer.save_checkpoint(self.path)
            raise KilledError


def trainer_in(
    folder: Path, *, max_steps: int, callbacks: list[Callback] | None = None, **options: Any
) -> Trainer:
    defaults: dict[str, Any] = {"val_check_interval": 4, "num_sanity_val_steps": 1}
    return Trainer(
        max_steps=max_steps,
        callbacks=callbacks,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **defaults | options,
    )


def run(folder: Path, kills: list[int], *, num_workers: int, accumulate: int, max_steps: int = 12) -> Toy:
    """Train to `max_steps`, killed and resumed at each of `kills`; what was seen over all of it."""
    seen, validations = [], []
    checkpoint: Path | None = None
    for step in [*kills, None]:
        toy, path = Toy(), folder / f"{step}.ckpt"
        callbacks: list[Callback] = [KillAfter(step, path)] if step is not None else []
        trainer = trainer_in(
            folder, max_steps=max_steps, callbacks=callbacks, accumulate_grad_batches=accumulate
        )
        data = datamodule_in(folder, num_workers=num_workers)
        if step is None:
            trainer.fit(toy, data, ckpt_path=checkpoint, weights_only=True)
        else:
            with pytest.raises(KilledError):
                trainer.fit(toy, data, ckpt_path=checkpoint, weights_only=True)
        seen += toy.trained
        validations += toy.validation_steps
        checkpoint = path
    toy.trained, toy.validation_steps = seen, validations
    return toy


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_batches_after_two_resumes_equal_those_of_an_uninterrupted_run(
    tmp_path: Path, num_workers: int, accumulate: int
) -> None:
    # An epoch is 5.75 batches: the kills lie in the first epoch and beyond a border.
    whole = run(tmp_path, [], num_workers=0, accumulate=accumulate)
    parts = run(tmp_path, [3, 7], num_workers=num_workers, accumulate=accumulate)
    assert len(whole.trained) == 12 * accumulate
    assert parts.trained == whole.trained
    assert torch.equal(parts.weight, whole.weight)


def test_batches_are_the_stream_of_the_sampler_over_epochs(tmp_path: Path) -> None:
    keys = [key for batch, _ in run(tmp_path, [], num_workers=0, accumulate=1).trained for key in batch]
    assert sorted(keys[:N_ROWS]) == list(range(N_ROWS))
    assert sorted(keys[N_ROWS : 2 * N_ROWS]) == list(range(N_ROWS, 2 * N_ROWS))


def test_a_row_is_masked_anew_in_each_epoch(tmp_path: Path) -> None:
    first: dict[int, list[int]] = {}
    for keys, inputs in run(tmp_path, [], num_workers=0, accumulate=1).trained:
        for key, row in zip(keys, inputs, strict=True):
            if key % N_ROWS in first:
                assert row != first[key % N_ROWS]
            first[key % N_ROWS] = row
    assert len(first) == N_ROWS


@pytest.mark.parametrize("num_workers", [0, 2])
def test_validation_sees_every_row_once_in_order_and_masked_alike_each_time(
    tmp_path: Path, num_workers: int
) -> None:
    toy = run(tmp_path, [], num_workers=num_workers, accumulate=1)
    sanity, *validations = toy.validated
    assert len(sanity) == 1
    assert len(validations) == 3
    assert [keys for keys, _ in validations[0]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert all(validation == validations[0] for validation in validations)


def test_validation_runs_at_the_steps_asked_for_after_a_resume_too(tmp_path: Path) -> None:
    # The interval counts batches: 4 of them are 4 steps, or 2 when two batches make a step.
    assert run(tmp_path, [], num_workers=0, accumulate=1).validation_steps == [4, 8, 12]
    assert run(tmp_path, [3, 7], num_workers=0, accumulate=1).validation_steps == [4, 8, 12]
    assert run(tmp_path, [3, 7], num_workers=0, accumulate=2).validation_steps == [2, 4, 6, 8, 10, 12]


def test_only_batches_that_training_used_are_counted(tmp_path: Path) -> None:
    data = datamodule_in(tmp_path, num_workers=2)
    trainer_in(tmp_path, max_steps=5).fit(Toy(), data)
    assert data.state_dict() == {"rows_done": 5 * BATCH_SIZE, "first_rows_per_pass": BATCH_SIZE}


@pytest.mark.parametrize("killed", [False, True])
def test_the_worker_processes_are_gone_after_the_run(tmp_path: Path, killed: bool) -> None:
    before = set(multiprocessing.active_children())
    callbacks: list[Callback] = [KillAfter(5, tmp_path / "a.ckpt")] if killed else []
    trainer = trainer_in(tmp_path, max_steps=6, callbacks=callbacks)
    data = datamodule_in(tmp_path, num_workers=2)
    with pytest.raises(KilledError) if killed else nullcontext():
        trainer.fit(Toy(), data)
    assert set(multiprocessing.active_children()) <= before
    assert trainer.val_dataloaders is not None


@pytest.mark.slow
def test_a_loader_whose_workers_were_ended_starts_new_ones(tmp_path: Path) -> None:
    data = datamodule_in(tmp_path, num_workers=2)
    trainer_in(tmp_path, max_steps=5).fit(Toy(), data)
    toy = Toy()
    trainer_in(tmp_path, max_steps=5).fit(toy, data)
    keys = [key for batch, _ in toy.trained for key in batch]
    assert keys == ResumableBatchSampler(N_ROWS, batch_size=5 * BATCH_SIZE, seed=5).keys(1).tolist()


def test_validating_alone_needs_no_training(tmp_path: Path) -> None:
    toy = Toy()
    data = datamodule_in(tmp_path)
    trainer_in(tmp_path, max_steps=1).validate(toy, data, verbose=False)
    assert sum(len(keys) for keys, _ in toy.validated[0]) == 11
    assert data.state_dict()["rows_done"] == 0


def test_the_loaders_work_without_a_trainer(tmp_path: Path) -> None:
    data = datamodule_in(tmp_path)
    data.load_state_dict({"batches_done": 2})  # of an older checkpoint
    start = next(iter(data.train_dataloader()))["keys"]
    data.load_state_dict({"rows_done": 0, "first_rows_per_pass": BATCH_SIZE})
    batches = iter(data.train_dataloader())
    assert torch.equal([next(batches)["keys"] for _ in range(3)][2], start)
    assert len(list(data.val_dataloader())) == len(data.val_dataloader()) == 3


def test_rows_that_are_no_whole_batches_are_refused(tmp_path: Path) -> None:
    data = datamodule_in(tmp_path)
    data.load_state_dict({"rows_done": 6, "first_rows_per_pass": 6})
    with pytest.raises(ValueError, match="expected 6 rows to be whole batches of 1 ranks"):
        data.train_dataloader()


def test_the_global_random_state_is_not_moved_by_the_loaders(tmp_path: Path) -> None:
    data = datamodule_in(tmp_path)
    before = torch.get_rng_state()
    list(data.val_dataloader())
    next(iter(data.train_dataloader()))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_empty_validation_set_is_refused(tmp_path: Path) -> None:
    class Empty:
        def __len__(self) -> int:
            return 0

        def take(self, indices: Any, /) -> Any:
            raise AssertionError

    rows = rows_in(tmp_path, 3)
    with pytest.raises(ValueError, match="n_rows=0"):
        PretrainDataModule(
            rows,
            Empty(),
            collate=partial(collate_with_keys, seed=0),
            validation_collate=partial(collate_with_keys, seed=0),
            batch_size=1,
            validation_batch_size=1,
            seed=0,
        )


TWO_RANKS = """
import json, sys
from pathlib import Path
from tests.datamodules.test_datamodule import Toy, datamodule_in, trainer_in
folder = Path(sys.argv[1])
trainer = trainer_in(folder, max_steps=3, val_check_interval=3, devices=2, strategy="ddp_fork")

class Reporting(Toy):
    def on_train_end(self):
        seen = [[keys for keys, _ in part] for part in (self.trained, self.validated[-1])]
        (folder / f"rank{self.global_rank}.json").write_text(json.dumps(seen))

trainer.fit(Reporting(), datamodule_in(folder))
"""


@pytest.mark.slow
def test_two_processes_share_nothing_in_training_and_validate_each_row_once(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", TWO_RANKS, str(tmp_path)], cwd=ROOT, check=True, capture_output=True
    )
    (train_0, val_0), (train_1, val_1) = (
        json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)
    )
    together = [key for pair in zip(train_0, train_1, strict=True) for batch in pair for key in batch]
    assert sorted(together[:N_ROWS]) == list(range(N_ROWS))
    assert sorted(key for batch in val_0 + val_1 for key in batch) == list(range(11))
