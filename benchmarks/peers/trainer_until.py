"""The Trainer of `transformers`, training until a clock is over."""

from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, default_data_collator

from benchmarks.peers.timed import Clock, Rows
from benchmarks.peers.trainer import gpt2
from benchmarks.shapes import Shape

#: More steps than any time allows; the clock ends training.
MAX_STEPS = 10**9


class TrainerRows(Dataset[dict[str, Tensor]]):
    """Rows for a model that shifts the labels itself."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids, labels = self._rows.take(index)
        return {"input_ids": ids, "labels": F.pad(labels[:-1], (1, 0), value=-100)}


class StopAtTheEnd(TrainerCallback):
    """Ends training after the step in which the time is used up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the clock."""
        control.should_training_stop = self._clock.is_over


def train_until(
    shape: Shape, rows: Rows, clock: Clock, *, bf16: bool, rate: float
) -> tuple[GPT2LMHeadModel, int]:
    """Train until the clock is over; return the model and the number of steps."""
    model = gpt2(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1, fused=True)
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=MAX_STEPS,
            per_device_train_batch_size=shape.batch,
            bf16=bf16,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer: Any = Trainer(
            model=model,
            args=arguments,
            train_dataset=TrainerRows(rows),
            data_collator=default_data_collator,
            optimizers=(optimizer, LambdaLR(optimizer, lambda _: clock.rate_factor())),
            callbacks=[StopAtTheEnd(clock)],
        )
        trainer.train()
    trainer.model.eval()
    return model, trainer.state.global_step
