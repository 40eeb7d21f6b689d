"""Load the bundle that a stage uses, and its task with the options of the command."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.corpus import Columns
from pipeline import report
from pipeline.config.construct import construct
from pipeline.config.plain import Config, to_plain
from pipeline.config.tasks import to_node
from pipeline.errors import BundleError, ConfigError
from pipeline.machine.options import TrainerOptions
from pipeline.runs.bundle import Bundle, load_bundle
from pipeline.runs.find import Kind, any_kind, find_bundle
from pipeline.runs.folders import RunFolder
from pipeline.runs.placing import place
from pipeline.runs.start import check_has_head
from pipeline.runs.stored import task_class
from pipeline.tasks.base import GAP, PretrainingTask
from pipeline.tasks.chat import Dialogue, dialogue_of
from pipeline.tasks.finetuning import FinetuneTask

#: Stages that need a model with a fine-tuning task; an imported language model with ChatML has one, too.
ANSWERING = ("predict", "try")


def load_asked(config: Config) -> Bundle:
    """Load the bundle that the command names, by default the newest suitable one, on the command's device.

    Raises:
        BundleError: if there is no such bundle, or it was trained for another task.
    """
    wanted = construct(config.task, PretrainingTask, FinetuneTask) if config.get("task") is not None else None
    answers = config.stage.name in ANSWERING or isinstance(wanted, FinetuneTask)
    folder = find_bundle(
        config.bundle,
        Path(config.runs_dir),
        stage="finetune" if answers else "pretrain",
        task=None if wanted is None else config.choices.task,
        kind=partial(_kind_for, config.prompts or []) if "prompts" in config.stage.uses else any_kind,
    )
    bundle = load_bundle(folder)
    if isinstance(wanted, Dialogue):
        bundle = as_dialogue(bundle)
    if wanted is not None and not isinstance(bundle.task, type(wanted)):
        raise BundleError(
            f"{folder} was trained for {type(bundle.task).__name__}",
            f"a bundle for {type(wanted).__name__}",
            "name another bundle, or use the task of this one",
        )
    options = construct(config.trainer, TrainerOptions) if "trainer" in config else TrainerOptions()
    described = place(bundle.model, options, config.quantization)
    report.say("Bundle", report.short(folder))
    report.say("Model", described)
    return bundle


def as_dialogue(bundle: Bundle) -> Bundle:
    """Return an imported language model with ChatML as a bundle that replies; return others as they are.

    Raises:
        BundleError: the model was imported without a head.
    """
    task = dialogue_of(bundle.task, bundle.tokenizer)
    if task is None or task is bundle.task:
        return bundle
    check_has_head(bundle)
    return replace(bundle, task=task, task_config=to_node(task))


def with_trained_names(columns: Columns, bundle: Bundle) -> Columns:
    """Add to the columns the names that they have in the files the bundle was trained on."""
    names: dict[str, list[str]] = {}
    for column, name in _names(bundle.config.get("data")):
        if name != column and name not in names.setdefault(column, []):
            names[column].append(name)
    return replace(columns, other_names=names)


def _names(data: Any) -> Iterator[tuple[str, str]]:
    """Yield (column, name in the files) from the recorded configuration of a corpus or a mixture."""
    if not isinstance(data, Mapping):
        return
    local = data.get("mirror_columns") if data.get("mirror") else None
    mapped = data.get("columns") if local is None else local
    if isinstance(mapped, Mapping):
        yield from ((str(column), str(name)) for column, name in mapped.items())
    sources = data.get("sources")
    for source in sources.values() if isinstance(sources, Mapping) else ():
        yield from _names(source)


def _kind_for(prompts: Sequence[str], run: RunFolder) -> Kind:
    """Rank a bundle by whether it can do what the prompts require: fill gaps or continue text."""
    trained = task_class(run.bundles / "best")
    fills = not issubclass(trained, FinetuneTask) and trained.fills_gaps
    wanted = any(GAP in prompt for prompt in prompts)
    return Kind(rank=int(fills != wanted), title="it fills gaps" if fills else "it does not fill gaps")


def asked_task(config: Config, bundle: Bundle) -> FinetuneTask:
    """Return the bundle's task, with the options of the command.

    Raises:
        BundleError: if the model was not fine-tuned.
        ConfigError: if the options require a different head.
    """
    given = {key: value for key, value in to_plain(config.get("task") or {}).items() if key != "_target_"}
    task = construct({**bundle.task_config, **given}, FinetuneTask, PretrainingTask)
    if not isinstance(task, FinetuneTask):
        raise BundleError(
            f"{bundle.folder} is a pretrained model", "a fine-tuned model", "run `make finetune-TASK` first"
        )
    _check_head(task, bundle)
    return task


def _check_head(task: FinetuneTask, bundle: Bundle) -> None:
    """Reject options that require a different head than the trained one."""
    present = bundle.model_config["head"]
    for key, value in task.head(bundle.model.backbone).items():
        if present.get(key) != value:
            raise ConfigError(
                f"the task's options require a head with {key}={value}",
                f"{key}={present.get(key)}, as {bundle.folder} was trained",
                "leave out the option, or fine-tune with it",
            )
