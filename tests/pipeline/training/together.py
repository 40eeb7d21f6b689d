"""Small trainings with the trainer that users have, in this process or in several.

Several, which run this file, train one case after another: starting them takes longer than training.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from datamodules.datamodule import FinetuneDataModule, PretrainDataModule
from datamodules.features import Features
from modules.heads import LMHead
from modules.init import initialize
from modules.layers import LayerSpec
from modules.lit_module import LitModule, Objective
from modules.model import Model
from modules.optim import AdamW, LearningRates, Muon
from modules.peft import LoRA, add_adapter
from modules.positions import Rotary
from modules.schedules import WSD, Schedule
from modules.transformer import Decoder, Encoder, EncoderDecoder, Transformer, set_compiled, set_recompute
from pipeline.errors import CheckpointError, RunInterrupted
from pipeline.machine.options import TrainerOptions
from pipeline.tasks.base import PretrainingTask, Sample
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.denoise import SpanDenoising
from pipeline.tasks.masked_lm import MaskedLM
from pipeline.training.callbacks.averaging import EMA
from pipeline.training.callbacks.guard import NonFiniteGuard
from pipeline.training.callbacks.limits import FinalValidation
from pipeline.training.callbacks.passes import Passes
from pipeline.training.callbacks.preemption import Preemption
from pipeline.training.callbacks.samples import Samples
from pipeline.training.callbacks.seeding import StepSeed
from pipeline.training.callbacks.throughput import Throughput
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.trainer import build_trainer
from tests.pipeline.tasks.small_models import BYTES, model_for
from tests.pipeline.toy import CrashError, Recorder, StopAfter
from tests.pipeline.training.disturbances import FullDisk, KillAfter, SignalAt, SlowDisk
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[3]

#: Rows of a step, of all processes and passes together.
ROWS_PER_STEP = 8

PRETRAINING: dict[str, tuple[PretrainingTask, type[Transformer]]] = {
    "causal_lm": (CausalLM(), Decoder),
    "masked_lm": (MaskedLM(), Encoder),
    "denoise": (SpanDenoising(), EncoderDecoder),
}
REVIEWS = [
    {"text": text * length, "label": label}
    for length in range(1, 9)
    for text, label in [("ab", "good"), ("ba", "bad"), ("cab", "good")]
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, and how."""

    name: str
    strategy: Literal["auto", "ddp", "fsdp", "hsdp"] = "fsdp"
    task: str = "causal_lm"
    optimizer: Literal["adamw", "muon"] = "adamw"
    accumulate: int = 1
    ema: float | None = None
    recompute: Literal["none", "selective", "full"] = "none"
    clip: float | None = 1.0
    max_seq_len: int = 32
    max_steps: int = 20
    lora: bool = False
    softcap: float | None = None
    compile: bool = False
    crash_after: int | None = None
    kill_after: int | None = None
    signal_at: int | None = None
    held: str = ""  # the folder whose shards a slow disk holds back, until this step:
    held_until: int | None = None
    full_after: int | None = None
    resume: bool = False
    folder: str = ""
    harm: Literal["", "damaged", "missing"] = ""

    def alone(self) -> "Case":
        """The same training in one process."""
        return replace(self, strategy="auto", accumulate=1, compile=False)


@dataclass(frozen=True)
class Losses:
    """What a training logs at each step, what its validations measure, and the error that ended it."""

    train: list[float] = field(default_factory=list)
    gradient: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    error: str = ""
    #: The steps that had ended before the shards that a slow disk held back were written.
    before_held: list[int] = field(default_factory=list)


def fit(case: Case, folder: Path, n_processes: int = 1) -> Losses:
    """Train in `folder`, as one of `n_processes`."""
    recorder = Recorder()
    options = TrainerOptions(
        accelerator="cpu",
        precision="fp32",
        strategy=case.strategy,
        max_steps=case.max_steps,
        batch_size=ROWS_PER_STEP // (n_processes * case.accumulate),
        accumulate=case.accumulate,
        gradient_clip=case.clip,
        log_every_steps=1,
        val_every_steps=case.max_steps // 2,
    )
    torch.manual_seed(1)
    model, objective, data = parts(case, options.batch_size)
    set_recompute(model, case.recompute)
    set_compiled(model, case.compile)
    samples = Samples(lambda: used(model, data), lambda step, samples: None)
    disk = SlowDisk(folder / case.held, case.held_until) if case.held else None
    trainer = build_trainer(
        options, callbacks=callbacks(case, options, folder, samples, disk), logger=recorder
    )
    module = LitModule(
        model,
        objective,
        optimizer=optimizer(case),
        schedule=schedule(),
        max_steps=options.n_steps,
    )
    last, said = folder / "last.ckpt", ""
    try:
        trainer.fit(module, data, ckpt_path=str(last) if case.resume else None)
    except CrashError:
        assert case.crash_after is not None
    except (CheckpointError, RunInterrupted) as error:
        said = str(error)
    train, gradient, validation = (
        list(recorder.of(name).values()) for name in ("train/loss", "grad_norm", "val/loss")
    )
    return Losses(train, gradient, validation, said, disk.ended_before if disk else [])


@torch.no_grad()
def used(model: Model, data: L.LightningDataModule) -> list[Sample]:
    """Use the model a few times, as one process alone does to show samples."""
    batches = iter(data.train_dataloader())
    for _ in range(2):
        model(next(batches))
    return []


def callbacks(
    case: Case, options: TrainerOptions, folder: Path, samples: Samples, disk: SlowDisk | None
) -> list[Callback]:
    """Those of a user's training that the weights depend on, and the checkpoints."""
    checkpoints = Checkpoints(folder, every_n_steps=options.val_interval_steps // 2)
    return [
        StepSeed(1),
        Passes(),
        *([EMA(case.ema)] if case.ema is not None else []),
        NonFiniteGuard(),
        Throughput(),
        FinalValidation(),
        samples,
        *([StopAfter(case.crash_after)] if case.crash_after is not None else []),
        *([KillAfter(case.kill_after, all_of_them=bool(case.held))] if case.kill_after is not None else []),
        *([disk] if disk is not None else []),
        *([FullDisk(case.full_after)] if case.full_after is not None else []),
        *([SignalAt(case.signal_at)] if case.signal_at is not None else []),
        checkpoints,
        Preemption(checkpoints),
    ]


def optimizer(case: Case) -> LearningRates:
    """With rates at which rounding errors do not grow much in 20 steps."""
    return (
        AdamW(lr=1e-3) if case.optimizer == "adamw" else Muon(lr=1e-3, newton_schulz="fp32", update_every=2)
    )


def schedule() -> Schedule:
    """A schedule that changes at each step."""
    return WSD()


def parts(case: Case, batch_size: int) -> tuple[Model, Objective, L.LightningDataModule]:
    """A model of two layers, what it learns, and batches."""
    if case.task == "classify":
        return _classification(batch_size, lora=case.lora)
    task, architecture = PRETRAINING[case.task]
    layer = LayerSpec(32, n_heads=2)
    backbone = architecture(
        BYTES.vocab_size, n_layers=2, max_seq_len=case.max_seq_len, layer=layer, position=Rotary()
    )
    model = Model(backbone, LMHead(backbone.output_embedding, softcap=case.softcap))
    initialize(model)
    data = PretrainDataModule(
        Rows(40, task.row_tokens(case.max_seq_len) + task.overlap, seed=1),
        Rows(9, task.row_tokens(case.max_seq_len) + task.overlap, seed=2),  # one of two has a batch less
        collate=task.collator(BYTES, seed=3),
        validation_collate=task.collator(BYTES, seed=4),
        batch_size=batch_size,
        validation_batch_size=4,
        seed=5,
    )
    return model, task.objective(BYTES), data


def _classification(batch_size: int, *, lora: bool) -> tuple[Model, Objective, L.LightningDataModule]:
    task = TextClassification().fit(REVIEWS)
    model = model_for(task, Decoder)
    model.head.dropout.p = 0.0  # each process would drop others
    if lora:
        add_adapter(model.backbone, LoRA(rank=2))
    features = Features.of(f for row in REVIEWS for f in task.features(row, BYTES, model.backbone))
    data = FinetuneDataModule(features, features, collate=task.collate, batch_size=batch_size, seed=5)
    return model, task.objective(), data


class Rows:
    """Seeded rows of bytes, some of them padded, in one segment each."""

    def __init__(self, n_rows: int, n_tokens: int, *, seed: int) -> None:
        first, end = BYTES.vocab_size - 60, BYTES.vocab_size
        self.ids = np.random.default_rng(seed).integers(first, end, (n_rows, n_tokens))
        self.segment_ids = np.ones_like(self.ids)
        self.segment_ids[::3, n_tokens // 2 :] = 0
        self.ids[self.segment_ids == 0] = BYTES.pad_id

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Any, /) -> tuple[Any, Any]:
        return self.ids[indices], self.segment_ids[indices]


def run_together(
    cases: Sequence[Case], folder: Path, *, n_processes: int, n_nodes: int = 1
) -> dict[str, Losses]:
    """The losses of each case, trained by several processes that torchrun might have started.

    Raises:
        AssertionError: a process failed.
    """
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = [
        _started(
            folder,
            {
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "WORLD_SIZE": str(n_processes),
                "LOCAL_RANK": str(rank % (n_processes // n_nodes)),
                "LOCAL_WORLD_SIZE": str(n_processes // n_nodes),
                "GROUP_RANK": str(rank // (n_processes // n_nodes)),
            },
        )
        for rank in range(n_processes)
    ]
    try:
        killed = any(case.kill_after is not None for case in cases)
        all_killed = killed and any(case.held for case in cases)
        for rank, process in enumerate(processes):
            code = process.wait(timeout=LIMIT_S)
            expected = (-signal.SIGKILL if all_killed or rank else 1) if killed else 0
            assert code == expected, (folder / f"{rank}.log").read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    losses = {} if killed else json.loads((folder / "losses.json").read_text())
    return {name: Losses(**values) for name, values in losses.items()}


def _started(folder: Path, numbers: dict[str, str]) -> "subprocess.Popen[bytes]":
    """A process with these numbers, whose standard error goes to a file."""
    shared = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    with (folder / f"{numbers['RANK']}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.pipeline.training.together", str(folder)],
            cwd=ROOT,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT), **shared, **numbers},
        )


def harmed(folder: Path, harm: str) -> Path:
    """A copy of what was saved in `folder`, which the first process makes and harms."""
    copy = folder.with_name(harm)
    if os.environ["RANK"] == "0":
        shutil.copytree(folder, copy)
        (shard,) = copy.glob("last.shards-*/__1_0.distcp")
        if harm == "damaged":
            shard.write_bytes(shard.read_bytes()[:-1] + b"?")
        else:
            shard.unlink()
    torch.distributed.barrier()
    return copy


def main() -> None:
    """Train the cases as one of several processes; the first one writes the losses."""
    folder, n_processes = Path(sys.argv[1]), int(os.environ["WORLD_SIZE"])
    losses = {}
    for plain in json.loads((folder / "cases.json").read_text()):
        case = Case(**plain)
        where = folder / (case.folder or case.name)
        if case.harm:
            where = harmed(where, case.harm)
        losses[case.name] = asdict(fit(case, where, n_processes))
    if os.environ["RANK"] == "0":
        (folder / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
