"""The steps of `make pipeline`, from raw text to registered models: each is a stage with overrides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.config.compose import keys_used
from pipeline.config.schema import BUNDLE_KEYS
from pipeline.config.tasks import finetuning_tasks
from pipeline.errors import ConfigError
from pipeline.plan.overrides import Override, refuse_managed, refuse_unread

#: Keys that, without an address, only apply to the steps up to the backbone, since fine-tuning has its own.
OF_THE_BACKBONE = ("task", "data", "init_from", *BUNDLE_KEYS)
#: Keys that an evaluation takes over from the fine-tuning step.
OF_THE_ROWS = ("data", "log_corpus_text")
#: The stage of the last steps, which do not depend on each other.
REGISTER = "register"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of the pipeline.

    Args:
        name: its name in the pipeline, such as finetune-qa.
        stage: the stage that it runs.
        task: the task that it fine-tunes or evaluates; None up to the backbone.
        words: overrides of its configuration.
        reads: the step whose bundle it reads, and the key that names the bundle.
        follows: another step, and the keys that it takes over from the overrides of that step.
    """

    name: str
    stage: str
    task: str | None = None
    words: tuple[str, ...] = ()
    reads: tuple[str, str] | None = None
    follows: tuple[str, tuple[str, ...]] | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The prefixes of keys that are meant for it: its name, its stage, its task."""
        return tuple(word for word in (self.name, self.stage, self.task) if word)


def plan(tasks: Sequence[str], overrides: Sequence[str]) -> list[Step]:
    """Return all steps in order, each with the overrides that are meant for it.

    `STEP.key=value` is for one step (`finetune-qa.trainer.max_steps=300`), for all steps of a stage
    (`finetune.`) or of a task (`qa.`). `key=value` is for every step that reads the key, but keys of the
    backbone (`data`, `size`, `model`, ...) are only for the steps up to it.

    Raises:
        ConfigError: for an unknown task, or an override that no step reads.
    """
    _check_tasks(tasks)
    steps = _backbone_steps() + [step for task in tasks for step in _steps_of(task)]
    steps += [_registration_of(task) for task in tasks]  # last: only they need a reachable store
    given = [Override.read(word, [word for step in steps for word in step.addresses]) for word in overrides]
    for override in given:
        refuse_managed(override, steps)
        if not any(_is_for(override, step) for step in steps):
            refuse_unread(override, steps)
    begun = any(override.top == "init_from" for override in given)
    return [_with(step, given, steps) for step in steps if not (begun and step.stage == "tokenizer")]


def _backbone_steps() -> list[Step]:
    read = tuple(key for key in keys_used("tokenizer") if key != "name")
    return [
        Step(name="tokenizer", stage="tokenizer", follows=("pretrain", read)),
        Step(name="pretrain", stage="pretrain"),
    ]


def _steps_of(task: str) -> list[Step]:
    words, trained = (f"task={task}",), _trained(task)
    return [
        Step(name=trained, stage="finetune", task=task, words=words, reads=("pretrain", "init_from")),
        Step(
            name=f"evaluate-{task}",
            stage="evaluate",
            task=task,
            words=words,
            reads=(trained, "bundle"),
            follows=(trained, OF_THE_ROWS),
        ),
    ]


def _registration_of(task: str) -> Step:
    return Step(name=f"register-{task}", stage=REGISTER, task=task, reads=(_trained(task), "bundle"))


def _trained(task: str) -> str:
    return f"finetune-{task}"


def _check_tasks(tasks: Sequence[str]) -> None:
    known = finetuning_tasks()
    if not tasks:
        raise ConfigError("tasks is empty", f"some of {', '.join(known)}", "leave out tasks for all of them")
    for task in tasks:
        if task not in known:
            raise ConfigError(
                f"tasks contains the unknown task {task}",
                f"some of {', '.join(known)}",
                'use for example TASKS="classify qa"',
            )
    if len(set(tasks)) < len(tasks):
        raise ConfigError(
            f"tasks contains a task twice: {', '.join(tasks)}",
            "each task once",
            'use for example TASKS="classify qa"',
        )


def _with(step: Step, overrides: Sequence[Override], steps: Sequence[Step]) -> Step:
    """Add its overrides to a step; those that it takes over come first, so that its own win."""
    words: list[str] = []
    if step.follows is not None:
        name, keys = step.follows
        followed = next(other for other in steps if other.name == name)
        words += [one.word for one in overrides if one.top in keys and _is_for(one, followed)]
    words += [one.word for one in overrides if _is_for(one, step) and one.word not in words]
    return replace(step, words=(*step.words, *words))


def _is_for(override: Override, step: Step) -> bool:
    if override.top not in keys_used(step.stage):
        return False
    if override.address is not None:
        return override.address in step.addresses
    return step.task is None or override.top not in OF_THE_BACKBONE
