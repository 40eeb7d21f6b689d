"""GPT-2 of `transformers` with its Trainer, as in run_clm.py."""

import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from benchmarks.shapes import Shape


def gpt2(shape: Shape) -> GPT2LMHeadModel:
    """Return GPT-2 with this shape and new weights, without dropout."""
    config = GPT2Config(
        n_layer=shape.n_layers,
        n_embd=shape.d_model,
        n_head=shape.n_heads,
        n_positions=shape.block,
        vocab_size=shape.vocab_size,
        bos_token_id=1,
        eos_token_id=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Rows of random tokens, as run_clm.py groups them."""

    def __init__(self, shape: Shape) -> None:
        self._ids = torch.randint(shape.vocab_size, (64 * shape.batch, shape.block))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._ids[index], "labels": self._ids[index]}


class Clock(TrainerCallback):
    """Records the time after the warm-up and after the last step."""

    def __init__(self, n_warmup_steps: int) -> None:
        self._n_warmup_steps = n_warmup_steps
        self.started = self.ended = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record the time at the end of the warm-up, and at the latest step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended = time.perf_counter()
        if state.global_step == self._n_warmup_steps:
            self.started = self.ended


class TrainerLoop:
    """The Trainer: `run` trains from scratch and returns the duration of the steps after the warm-up."""

    def __init__(self, shape: Shape, *, bf16: bool, device: torch.device, folder: Path) -> None:
        torch.manual_seed(0)
        self._model = gpt2(shape)
        self._shape, self._bf16, self._folder, self._rows = shape, bf16, folder, Rows(shape)
        self._use_cpu = device.type == "cpu"

    def run(self, n_steps: int) -> float:
        """Make `n_steps` steps, and return the seconds."""
        clock = Clock(self._shape.n_warmup_steps)
        arguments = TrainingArguments(
            output_dir=str(self._folder),
            max_steps=self._shape.n_warmup_steps + n_steps,
            per_device_train_batch_size=self._shape.batch,
            bf16=self._bf16,
            use_cpu=self._use_cpu,
            optim="adamw_torch_fused",
            learning_rate=1e-3,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=self._model, args=arguments, train_dataset=self._rows, callbacks=[clock],
            data_collator=default_data_collator,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return clock.ended - clock.started
