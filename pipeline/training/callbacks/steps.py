"""Tell a callback where it is: between optimizer steps, before a validation, in which process."""

import lightning as L


def ends_optimizer_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether the weights were updated with this batch: training loaders are endless, no epoch cuts one."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def is_logging_step(trainer: L.Trainer) -> bool:
    """Whether the optimizer step just finished is one whose values are logged."""
    step = trainer.global_step
    every: int = trainer.log_every_n_steps or 1  # type: ignore[attr-defined]
    return step % every == 0 or step == trainer.max_steps


def validation_follows(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether a validation comes right after this batch."""
    if not trainer.enable_validation or not sum(trainer.num_val_batches):
        return False
    interval = trainer.val_check_batch
    return trainer.should_stop or (isinstance(interval, int) and (batch_idx + 1) % interval == 0)


def any_process(trainer: L.Trainer, decision: bool) -> bool:
    """`decision`, taken by all processes as soon as one of them has taken it."""
    if trainer.world_size == 1:
        return decision
    return trainer.strategy.reduce_boolean_decision(decision, all=False)
