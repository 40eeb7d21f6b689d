"""The trials of a sweep, as an Optuna study in a journal in the sweep's folder.

All samplers use it. A grid is enqueued completely, in the order typed, so that a killed sweep continues with
the trials that are still enqueued. (Optuna's GridSampler shuffles, and does not support asking for single
trials.)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.files import write_whole
from pipeline.sweep.options import SweepOptions
from pipeline.sweep.plan import Plan
from pipeline.sweep.space import words_of

JOURNAL = "study.jsonl"
_NAME = "sweep"
#: Trials that TPE draws at random before it starts to choose (Optuna's default).
FIRST_AT_RANDOM = 10


def open_study(folder: Path, plan: Plan, options: SweepOptions) -> Study:
    """Open the study in `folder`, or create it. The caller must have the lock of the folder."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = folder / JOURNAL
    is_new = not file.exists()
    _repair(file)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(file))),
        study_name=_NAME,
        direction=plan.direction,
        pruner=MedianPruner(n_startup_trials=options.prune_after) if options.prunes else NopPruner(),
        load_if_exists=not is_new,
    )
    queued = len(study.trials)  # fewer than in the grid, if the sweep was killed while it enqueued them
    for values in (plan.grid or [])[queued:]:
        study.enqueue_trial(values)
    return study


def _repair(file: Path) -> None:
    """Remove an incomplete last line and Optuna's lock, which a killed process may have left."""
    file.with_name(f"{file.name}.lock").unlink(missing_ok=True)
    if file.exists() and not (text := file.read_bytes()).endswith(b"\n"):
        write_whole(file, text[: text.rfind(b"\n") + 1])


def next_trial(study: Study, plan: Plan, options: SweepOptions) -> Trial | None:
    """Return the next trial of the plan, or None if all have been started."""
    n_begun = sum(trial.state != TrialState.WAITING for trial in study.trials)
    if n_begun >= plan.n_trials:
        return None
    study.sampler = _sampler(options, n_begun)
    return study.ask({key.key: key.distribution for key in plan.swept})


def _sampler(options: SweepOptions, number: int) -> BaseSampler:
    """Create a sampler seeded by the trial's number, so that a resumed sweep draws the same values."""
    seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
    if options.sampler == "optuna":
        return TPESampler(n_startup_trials=FIRST_AT_RANDOM, seed=seed, constant_liar=options.n_parallel > 1)
    return RandomSampler(seed=seed)


def interrupted(study: Study) -> list[Trial]:
    """Return the trials that were running when the sweep ended."""
    return [
        Trial(study, trial._trial_id)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    ]


def n_ended(study: Study) -> int:
    """Count the trials that have ended."""
    return sum(trial.state.is_finished() for trial in study.trials)


def values_of(trial: Trial | FrozenTrial, plan: Plan) -> dict[str, str]:
    """Return the values of the trial, as words."""
    return words_of(trial.params, plan.swept)


def twin(study: Study, trial: Trial) -> FrozenTrial | None:
    """Return a finished trial with the same values, since equal configurations give equal results."""
    return next(
        (
            other
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if other.params == trial.params
        ),
        None,
    )


def ranked(study: Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Rank trials, best first, followed by pruned, failed and unfinished ones."""
    sign = 1.0 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1.0
    order: Mapping[Any, int] = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1, TrialState.FAIL: 2}

    def place(trial: FrozenTrial) -> tuple[int, float, int]:
        value = sign * trial.value if trial.value is not None else float("inf")
        return order.get(trial.state, 3), value, trial.number

    return sorted(trials, key=place)
