"""The default length of fine-tuning, computed from the number of rows."""

import math
from dataclasses import replace

from pipeline.machine.devices import rows_per_step
from pipeline.machine.options import TrainerOptions

#: The number of epochs, and bounds on the number of steps.
EPOCHS = 10
IMPORTED_EPOCHS = (
    3  # for imported weights, which were pretrained at length (Devlin et al. 2019, appendix A.3)
)
STEPS_PER_CLASS = 10
MOST_STEPS = 6000

#: The number of validations, the fewest steps between two of them, and the number of validations without a
#: better metric after which the learning rate decays and training ends.
VALIDATIONS = 20
LEAST_BETWEEN = 100
PLATEAU = 3

#: The default time budget.
MAX_MINUTES = 30


def is_open(options: TrainerOptions) -> bool:
    """Return whether neither steps nor epochs are given."""
    return options.max_steps is None and options.max_epochs is None


def with_budget(
    options: TrainerOptions, *, n_rows: int, n_classes: int, least_steps: int, epochs: int = EPOCHS
) -> TrainerOptions:
    """Set the number of steps from the number of training rows and classes; given options are kept.

    The result depends on nothing else but `epochs`, so the same command on the same rows trains for the same
    number of steps on any machine, up to the time limit.
    """
    of_epochs = math.ceil(epochs * n_rows / rows_per_step(options))
    steps = max(of_epochs, STEPS_PER_CLASS * n_classes, least_steps)
    steps = min(steps, MOST_STEPS)
    return replace(
        options,
        max_steps=steps,
        val_every_steps=options.val_every_steps or max(LEAST_BETWEEN, steps // VALIDATIONS),
        plateau=options.plateau or (None if options.patience else PLATEAU),
        time_budget_s=options.time_budget_s or MAX_MINUTES * 60.0,
    )


def describe_budget(options: TrainerOptions, n_rows: int) -> str:
    """Describe the length of training, and the options that change it."""
    epochs = options.n_steps * rows_per_step(options) / n_rows
    minutes = (options.time_budget_s or 0) / 60
    parts = [
        f"at most {options.n_steps:,} steps, {epochs:.1f} epochs of {n_rows:,} rows (trainer.max_steps=...)",
        f"and {minutes:.0f} minutes (trainer.time_budget_s=...)",
    ]
    if options.plateau is not None:
        parts.append(
            f"or fewer, after {options.plateau} validations without a better metric (trainer.plateau=...)"
        )
    return ", ".join(parts)
