"""Tell callbacks where training is: after an optimizer step, at a logging step, before a validation."""

import lightning as L


def ends_optimizer_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether the weights were updated after this batch.

    Training loaders are endless, so no epoch ends within an optimizer step.
    """
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def is_logging_step(trainer: L.Trainer) -> bool:
    """Return whether the values of the optimizer step that just finished are logged."""
    step = trainer.global_step
    every: int = trainer.log_every_n_steps or 1  # type: ignore[attr-defined]
    return step % every == 0 or step == trainer.max_steps


def validation_follows(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether a validation follows right after this batch."""
    if not trainer.enable_validation or not sum(trainer.num_val_batches):
        return False
    interval = trainer.val_check_batch
    return trainer.should_stop or (isinstance(interval, int) and (batch_idx + 1) % interval == 0)


def any_process(trainer: L.Trainer, decision: bool) -> bool:
    """Return whether `decision` is true in any process; all processes get the same result."""
    if trainer.world_size == 1:
        return decision
    return trainer.strategy.reduce_boolean_decision(decision, all=False)
