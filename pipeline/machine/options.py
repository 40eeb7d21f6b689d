"""The options of the trainer, which every stage that computes reads."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pipeline.errors import ConfigError

Count = Annotated[int, Field(ge=1)]


Seconds = Annotated[float, Field(gt=0)]


Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How long, on which devices and how to train; one step is one update of the weights.

    Args:
        max_steps: number of updates of the weights; with size=tiny, the defaults take minutes on two CPU
            cores. null: in fine-tuning, computed from the number of rows (`pipeline.training.budget`).
        max_epochs: number of passes over the rows; if given, it determines max_steps.
        batch_size: rows on one device in one forward pass.
        accumulate: forward passes per step; 4 passes of 4 rows have the gradient of one pass of 16.
        precision: auto takes bf16 where the machine is much faster in it, else fp32.
        compile: train with layers compiled by `torch.compile`, which takes up to a minute; auto: before a
            long pretraining of an encoder or a decoder, a layer is compiled and measured.
        gradient_clip: the largest norm of a gradient; null: no limit.
        ema_decay: keep an exponential moving average of the weights, and use it.
        patience: validations without a better result (loss, or the task's metric) before training stops.
        plateau: validations without a better result before the learning rate decays, with schedule=wsd, and
            training ends; with other schedules, it ends at once.
        time_budget_s: seconds of training, summed over all parts of a resumed run.
        val_every_steps: steps between validations; null: five validations per run.
        val_rows: number of rows to validate on, from the first; null: all.
        score_rows: number of rows that a fine-tuned model predicts at each validation; null: all.
        curriculum: fraction of the steps during which fine-tuning progresses from the shortest rows to all
            rows.
        checkpoint_every_steps: steps between checkpoints; null: one at each validation.
        devices: number of devices; auto: all GPUs, or one CPU process.
        strategy: how several devices work together. ddp: each has the whole model; fsdp: weights, gradients
            and optimizer states are sharded over all devices; hsdp: over the devices of each machine, with a
            replica on each machine. auto: ddp.
        activation_checkpointing: which activations of a layer are recomputed in the backward pass to save
            memory: none; all but matrix products and attention (selective); all (full), for a third more
            work.
        num_workers: number of processes that prepare batches; 0: the training process prepares them.
    """

    max_steps: Count | None = None
    max_epochs: Annotated[float, Field(gt=0)] | None = None
    batch_size: Count = 16
    accumulate: Count = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    gradient_clip: Annotated[float, Field(gt=0)] | None = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    patience: Count | None = None
    plateau: Count | None = None
    time_budget_s: Seconds | None = None
    val_every_steps: Count | None = None
    val_rows: Count | None = None
    score_rows: Count | None = 400
    curriculum: Annotated[float, Field(ge=0, le=1)] = 0.0
    checkpoint_every_steps: Count | None = None
    log_every_steps: Count = 10
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Count | Literal["auto"] = "auto"
    strategy: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    num_workers: Annotated[int, Field(ge=0)] = 0

    @property
    def n_steps(self) -> int:
        """`max_steps`, where it is known.

        Raises:
            ConfigError: if no option says how long to train.
        """
        if self.max_steps is None:
            raise ConfigError(
                "trainer.max_steps is null",
                "a number of steps",
                "give a number, for example trainer.max_steps=1000",
            )
        return self.max_steps

    @property
    def is_sharded(self) -> bool:
        """Whether weights are sharded over devices."""
        return self.strategy in ("fsdp", "hsdp")

    @property
    def answer_batch_size(self) -> int:
        """Rows per batch of predictions: four times as many as in training, since there are no gradients."""
        return 4 * self.batch_size

    @property
    def curriculum_batches(self) -> int:
        """Forward passes on one device before rows of every length are drawn."""
        return int(self.curriculum * self.n_steps) * self.accumulate

    @property
    def val_interval_steps(self) -> int:
        """Steps between two validations."""
        return min(self.n_steps, self.val_every_steps or max(1, self.n_steps // 5))

    @property
    def checkpoint_interval_steps(self) -> int:
        """Steps between two checkpoints."""
        return self.checkpoint_every_steps or self.val_interval_steps
