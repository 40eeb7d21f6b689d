"""The default length of a fine-tuning, computed from the number of rows."""

import math
from dataclasses import replace

from pipeline.machine.devices import count_devices
from pipeline.machine.options import TrainerOptions

#: How often each row is seen, unless that would be fewer or more steps than these.
EPOCHS = 10
IMPORTED_EPOCHS = 3  # of weights that were pretrained at length (Devlin et al. 2019, appendix A.3)
STEPS_PER_CLASS = 10
MOST_STEPS = 6000

#: How often is validated, but not more often than after so many steps; and after how many validations without
#: a better metric the learning rate decays and training ends.
VALIDATIONS = 20
LEAST_BETWEEN = 100
PLATEAU = 3

#: The longest training that nobody has asked for.
MAX_MINUTES = 30


def is_open(options: TrainerOptions) -> bool:
    """Whether neither steps nor epochs are given."""
    return options.max_steps is None and options.max_epochs is None


def with_budget(
    options: TrainerOptions, *, n_rows: int, n_classes: int, least_steps: int, epochs: int = EPOCHS
) -> TrainerOptions:
    """The options with the steps that so many training rows of so many classes ask for.

    It depends on nothing else but `epochs`: the same command on the same rows trains as long on any machine,
    short of the time limit. What is given stays.
    """
    rows_a_step = options.batch_size * options.accumulate * count_devices(options)
    wanted = max(math.ceil(epochs * n_rows / rows_a_step), STEPS_PER_CLASS * n_classes, least_steps)
    steps = min(wanted, MOST_STEPS)
    return replace(
        options,
        max_steps=steps,
        val_every_steps=options.val_every_steps or max(LEAST_BETWEEN, steps // VALIDATIONS),
        plateau=options.plateau or (None if options.patience else PLATEAU),
        time_budget_s=options.time_budget_s or MAX_MINUTES * 60.0,
    )


def describe_budget(options: TrainerOptions, n_rows: int) -> str:
    """Describe the length of the training, and the options that change it."""
    epochs = options.n_steps * options.batch_size * options.accumulate * count_devices(options) / n_rows
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
