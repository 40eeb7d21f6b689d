"""Random rows like those of a pretraining task, and the training step that is traced and timed with them."""

from collections.abc import Callable

import numpy as np

from datamodules.collate import Batch, RowBatch
from datamodules.tokenizer import Bytes, TokenizerTrainer
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.config.recorded import with_defaults
from pipeline.config.tasks import pretraining_task
from pipeline.estimate.trace import Step
from pipeline.machine.devices import choose_precision
from pipeline.machine.options import TrainerOptions


def vocab_size_of(config: Config) -> int:
    """Return the size of the vocabulary, at most: a text may yield fewer tokens than requested."""
    configured: int | None = config.tokenizer.get("vocab_size")
    if configured is not None:
        return configured
    return int(construct(config.tokenizer, TokenizerTrainer).train([]).vocab_size)


def step_of(
    config: Config, options: TrainerOptions, *, n_devices: int = 1, on_gpu: bool, is_here: bool
) -> Step:
    """Return the part of a training step of the configuration that each of `n_devices` takes."""
    import torch

    from modules.muon import fastest_newton_schulz
    from pipeline.machine.choice import choose_update_every

    plain = with_defaults(config)
    optimizer = dict(plain["optimizer"])
    if optimizer.get("newton_schulz") == "auto":
        kind = torch.device("cuda" if on_gpu else "cpu")
        optimizer["newton_schulz"] = fastest_newton_schulz(kind) if is_here else "bf16"
    if optimizer.get("update_every") == "auto":
        n_rows = options.batch_size * options.accumulate * n_devices
        optimizer["update_every"] = choose_update_every(config, n_rows)
    precision = options.precision
    if precision == "auto":
        precision = choose_precision(options) if is_here else "bf16"
    objective = pretraining_task(config).objective(Bytes().train([]))
    return Step(
        model=plain["model"],
        vocab_size=vocab_size_of(config),
        optimizer=optimizer,
        loss=objective.loss,
        batch=_batches(config),
        precision=precision,
        on_gpu=on_gpu,
        keeps_gradients=options.accumulate > 1,
        averages=options.ema_decay is not None,
    )


def _batches(config: Config) -> Callable[[int], Batch]:
    """Return a function that makes a batch of `n_rows` full rows, each packed from two documents.

    The tokens are random bytes, because their values affect neither memory nor work.
    """
    task, tokenizer = pretraining_task(config), Bytes().train([])
    width = task.row_tokens(int(config.model.backbone.max_seq_len))
    collate = task.collator(tokenizer, seed=0)

    def batch(n_rows: int) -> Batch:
        random = np.random.default_rng(0)
        low = max(tokenizer.special_ids) + 1
        ids = random.integers(low, tokenizer.vocab_size, (n_rows, width), dtype=np.uint16)
        segments = np.ones((n_rows, width), np.uint16)
        segments[:, width // 2 :] = 2
        return collate(RowBatch(ids, segments, np.arange(n_rows)))

    return batch
