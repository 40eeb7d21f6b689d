"""Build the task that a configuration names, and the configuration node of a task."""

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.config.construct import construct
from pipeline.config.groups import CONFIGS, groups
from pipeline.config.plain import Config
from pipeline.config.targets import target_of
from pipeline.errors import ConfigError
from pipeline.tasks.base import PretrainingTask
from pipeline.tasks.finetuning import FinetuneTask


@cache
def finetuning_tasks() -> dict[str, type[FinetuneTask]]:
    """Return the classes of the fine-tuning tasks, by the names of their yaml files."""
    found = {name: _class_of(CONFIGS / "task" / f"{name}.yaml") for name in groups()["task"]}
    return {name: kind for name, kind in found.items() if issubclass(kind, FinetuneTask)}


def _class_of(file: Path) -> type:
    return target_of(str(OmegaConf.load(file).task._target_), f"task={file.stem}")


def pretraining_task(config: Config) -> PretrainingTask:
    """Return the task of a stage that reads raw text.

    Raises:
        ConfigError: if the task learns from labelled rows.
    """
    task = construct(config.task, PretrainingTask, FinetuneTask)
    if isinstance(task, FinetuneTask):
        raise ConfigError(
            f"task={config.choices.task} learns from labelled rows",
            "a task that learns from raw text",
            f"use `make finetune-{config.choices.task}`, or task=causal_lm",
        )
    return task


def finetuning_task(config: Config) -> FinetuneTask:
    """Return the task of a stage that reads labelled rows.

    Raises:
        ConfigError: if the task learns from raw text.
    """
    task = construct(config.task, FinetuneTask, PretrainingTask)
    if not isinstance(task, FinetuneTask):
        raise ConfigError(
            f"task={config.choices.task} learns from raw text",
            "a task that learns from labelled rows",
            f"use `make pretrain-{config.choices.task}`, or task=classify",
        )
    return task


def to_node(thing: Any) -> dict[str, Any]:
    """Return the configuration node of a dataclass instance; fields at their defaults are left out."""
    kind = type(thing)
    values = {item.name: (getattr(thing, item.name), item.default) for item in fields(thing)}
    given = {name: value for name, (value, default) in values.items() if value != default}
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **given}
