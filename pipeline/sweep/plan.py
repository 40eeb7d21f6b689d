"""Plan a sweep: the stage, the keys, the trials, and the metric that ranks them."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from pipeline.compare.comparison import ACROSS_TOKENIZERS, DECIDING, lower_is_better
from pipeline.config.compose import compose
from pipeline.config.groups import groups
from pipeline.config.model import check_values
from pipeline.config.plain import Config
from pipeline.config.tasks import finetuning_task, pretraining_task
from pipeline.errors import ConfigError, UserError
from pipeline.sweep.options import DEFAULT_TRIALS, SweepOptions
from pipeline.sweep.space import Swept, combinations, examples, read_words
from pipeline.tasks.finetuning import FinetuneTask

Direction = Literal["minimize", "maximize"]

#: The stages that train, each with the function that builds its task and refuses any other.
TASK_OF: Mapping[str, Callable[[Config], Any]] = {
    "pretrain": pretraining_task,
    "finetune": finetuning_task,
}
#: The most combinations that are checked before the first trial, to find a valid one.
MAX_EXAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a sweep.

    Args:
        target: the stage as typed, for example finetune-classify.
        stage: the stage itself.
        fixed: words that are the same in every trial.
        swept: the keys that vary.
        n_trials: the number of trials.
        grid: the values of each trial of a grid, in order; None if they are drawn.
        metric: the metric that ranks trials.
        direction: whether it is minimized or maximized.
    """

    target: str
    stage: str
    fixed: list[str]
    swept: list[Swept]
    n_trials: int
    grid: list[dict[str, str]] | None
    metric: str
    direction: Direction

    def words(self, values: Mapping[str, str]) -> list[str]:
        """Return all words of a trial."""
        return [*self.fixed, *(f"{key}={value}" for key, value in values.items())]

    def typed(self, values: Mapping[str, str]) -> list[str]:
        """Return the words of a trial without the task, which is part of the Make target."""
        return [
            word for word in self.words(values) if f"{self.stage}-{word.removeprefix('task=')}" != self.target
        ]

    def compose(self, values: Mapping[str, str]) -> Config:
        """Return the configuration of a trial, checked as far as possible without reading data.

        Raises:
            UserError: if the values are invalid.
        """
        config = compose(self.stage, self.words(values))
        TASK_OF[self.stage](config)
        check_values(config)
        return config


def make_plan(options: SweepOptions, words: Sequence[str]) -> Plan:
    """Read the words of the trials, and fill in the defaults.

    Raises:
        ConfigError: for an unknown stage, no swept key, ranges in a grid, or no valid combination.
    """
    stage, task = _stage_of(options.stage)
    is_grid = options.sampler == "grid"
    fixed, swept = read_words([*task, *words], listed=is_grid)
    grid = combinations(swept) if is_grid else None
    n_trials = len(grid) if grid is not None else options.trials or DEFAULT_TRIALS
    draft = Plan(
        target=options.stage,
        stage=stage,
        fixed=fixed,
        swept=swept,
        n_trials=n_trials,
        grid=grid,
        metric="",
        direction="minimize",
    )
    metric, direction = _metric(options, draft, _example(draft))
    return replace(draft, metric=metric, direction=direction)


def _stage_of(target: str) -> tuple[str, list[str]]:
    """Return the stage of a `make` target, and the word of its task."""
    stage, dash, task = target.partition("-")
    if stage in TASK_OF and (task in groups()["task"] or not dash):
        return stage, [f"task={task}"] if task else []
    known = [*TASK_OF, *(f"{stage}-{task}" for stage in TASK_OF for task in _tasks(stage))]
    close = difflib.get_close_matches(target, known, n=1)
    raise ConfigError(
        f"sweep.stage={target} cannot be swept",
        f"a stage that trains: {', '.join(known)}",
        f"did you mean STAGE={close[0]}?" if close else "use STAGE=pretrain",
    )


def _tasks(stage: str) -> list[str]:
    """Return the tasks that a stage trains."""
    names = []
    for name in groups()["task"]:
        try:
            TASK_OF[stage](compose("show-data", [f"task={name}"]))
        except ConfigError:
            continue
        names.append(name)
    return names


def _example(plan: Plan) -> Config:
    """Return the configuration of a valid trial.

    Raises:
        ConfigError: if no combination is valid.
    """
    first: UserError | None = None
    for values in islice(examples(plan.swept), MAX_EXAMPLES):
        try:
            return plan.compose(values)
        except UserError as error:
            first = first or error
    if first is None:
        raise ConfigError(
            "there is nothing to sweep", "at least one combination", "give a key several values"
        )
    raise ConfigError(f"no trial is valid: {first.problem}", first.expected, first.remedy) from first


def _metric(options: SweepOptions, plan: Plan, config: Config) -> tuple[str, Direction]:
    """Return the requested metric, or the one that selects the task's best weights, and its direction."""
    if options.metric is not None:
        lower = lower_is_better(options.metric)
        return options.metric, options.direction or ("minimize" if lower else "maximize")
    keys = {key.key.lstrip("+~").split(".")[0] for key in plan.swept}
    if "task" in keys:
        raise ConfigError(
            "task is swept, but the metrics of different tasks are not comparable",
            "a metric that all trials have",
            "give sweep.metric=NAME, or sweep one task at a time",
        )
    task = TASK_OF[plan.stage](config)
    if isinstance(task, FinetuneTask):
        own: Direction = "maximize" if task.higher_is_better else "minimize"
        return f"val/{task.metric}", options.direction or own
    differ = bool(keys & {"tokenizer", "tokenizer_text_bytes"})
    return (ACROSS_TOKENIZERS if differ else DECIDING)[0], options.direction or "minimize"


def identity(options: SweepOptions, plan: Plan) -> dict[str, Any]:
    """Return the facts that must not change when a sweep is resumed."""
    return {
        **{key: getattr(options, key) for key in ("stage", "sampler", "seed")},
        "keys": {key.key: key.text for key in plan.swept},
        "words": sorted(word for word in plan.fixed if not _is_location(word)),
        "metric": plan.metric,
        "direction": plan.direction,
    }


def _is_location(word: str) -> bool:
    """Return whether a word sets where a run is stored, not what it computes."""
    return word.lstrip("+~").split("=")[0].split(".")[0] in ("runs_dir", "cache_dir", "tracking")
