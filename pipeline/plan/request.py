"""Parse the words of `make pipeline` and `make why`: their own keys, and the steps with their keys."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.compose import compose, compose_unchecked, keys_used
from pipeline.config.model import check_values
from pipeline.config.plain import Config
from pipeline.config.tasks import finetuning_tasks, pretraining_task
from pipeline.errors import ConfigError
from pipeline.plan.overrides import Override
from pipeline.plan.steps import REGISTER, Step, plan
from pipeline.tracking import TrackingOptions


@dataclass(frozen=True, kw_only=True)
class Request:
    """The steps of a pipeline, and their configurations.

    Args:
        own: the configuration of `pipeline` or `why` itself.
        steps: all steps, in order.
        configs: the unchecked configuration of each step, by its name.
        without_registry: whether registrations are skipped, because nothing is tracked.
    """

    own: Config
    steps: list[Step]
    configs: dict[str, Config]
    without_registry: bool

    @property
    def runs_dir(self) -> Path:
        """The folder of the runs of all steps."""
        return Path(self.configs[self.steps[-1].name].runs_dir)


def read_request(stage: str, words: Sequence[str]) -> Request:
    """Build the plan from the user's words. Only yaml files are read.

    Raises:
        ConfigError: for an unknown task or step, or an override that no step reads.
    """
    own = set(keys_used(stage))
    overrides = [Override.read(word, ()) for word in words]
    config = compose(stage, [one.word for one in overrides if one.top in own])
    tasks = list(finetuning_tasks()) if config.get("tasks") is None else list(config.tasks)
    given = [one.word for one in overrides if one.top not in own]
    steps = plan(tasks, given)
    configs = _composed(steps)
    last = configs[steps[-1].name]
    tracks = bool(last.tracking.get("enabled", TrackingOptions().enabled)) if "tracking" in last else True
    if not tracks and any(step.stage == REGISTER for step in steps):
        steps = [step for step in steps if step.stage != REGISTER]
    return Request(own=config, steps=steps, configs=configs, without_registry=not tracks)


def check(request: Request) -> None:
    """Check the configuration of every step, before the first one runs.

    Raises:
        ConfigError: for a wrong key or value.
    """
    for step in request.steps:
        with _named(step):
            config = compose(step.stage, step.words)
            check_values(config)
            if step.task is None and "task" in config:
                pretraining_task(config)


def find_step(request: Request, name: str) -> Step:
    """Return the step of this name.

    Raises:
        ConfigError: if there is no such step.
    """
    for step in request.steps:
        if step.name == name:
            return step
    names = ", ".join(step.name for step in request.steps)
    raise ConfigError(
        f"step={name}: the pipeline has no such step", f"one of {names}", "use for example STAGE=finetune-qa"
    )


@contextmanager
def _named(step: Step) -> Iterator[None]:
    """Prefix errors with the name of the step."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{step.name}: {error.problem}", error.expected, error.remedy) from error


def _composed(steps: Sequence[Step]) -> dict[str, Config]:
    """Compose each set of words once: composing takes a tenth of a second."""
    known: dict[tuple[str, tuple[str, ...]], Config] = {}
    for step in steps:
        if (key := (step.stage, step.words)) not in known:
            with _named(step):
                known[key] = compose_unchecked(step.stage, step.words)
    return {step.name: known[step.stage, step.words] for step in steps}
