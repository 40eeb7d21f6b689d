"""Find the bundle that training starts from, and complete the configuration with its model."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from datamodules.tokenizer import TokenizerTrainer
from modules.heads import NoHead
from modules.transformer import EncoderDecoder, Transformer
from pipeline import report
from pipeline.config.construct import construct
from pipeline.config.model import build_model
from pipeline.config.plain import Config, to_plain
from pipeline.config.schema import BUNDLE_KEYS, NOTHING
from pipeline.config.targets import target_of
from pipeline.errors import BundleError, ConfigError
from pipeline.runs.bundle import Bundle, load_bundle
from pipeline.runs.find import LATEST, Kind, find_bundle, newest_bundle
from pipeline.runs.folders import RunFolder
from pipeline.runs.stored import backbone_class
from pipeline.tasks.finetuning import FinetuneTask

#: The stages whose bundles are not fine-tuned for a task, those of this project first.
UNTUNED = ("pretrain", "import")


def find_start(spec: str | None, runs_dir: Path, backbones: tuple[type[Transformer], ...]) -> Path | None:
    """Find the bundle to fine-tune, or return None if `spec` is `none`.

    The default is the newest pretraining bundle with the first of the `backbones` for which there is one.

    Raises:
        BundleError: if there is no such bundle, it is unfinished, or its architecture is not supported.
    """
    if spec == NOTHING:
        return None
    names = " or ".join(kind.__name__ for kind in backbones)
    fits = partial(_kind, backbones=backbones)
    if spec is None or spec == LATEST:
        found = newest_bundle(runs_dir, stage="pretrain", kind=fits)
        if found is None:
            raise BundleError(
                f"there is no finished pretraining bundle with {_article(names)} under {runs_dir}",
                "a bundle to start from",
                "run `make pretrain` first, name a bundle with INIT=..., or train from scratch: INIT=none",
            )
        return found
    folder = find_bundle(spec, runs_dir)
    if (kind := backbone_class(folder)) not in backbones:
        able = next(filter(None, (newest_bundle(runs_dir, stage=each, kind=fits) for each in UNTUNED)), None)
        raise BundleError(
            f"{folder} is {_article(kind.__name__)}, which this task does not support",
            f"{_article(names)}",
            f"use INIT={able.parent.parent.name}" if able else "pretrain one first, or use INIT=none",
        )
    return folder


def _kind(
    run: RunFolder, *, backbones: tuple[type[Transformer], ...], rank_of_others: int | None = None
) -> Kind:
    kind = backbone_class(run.bundles / "best")
    rank = backbones.index(kind) if kind in backbones else rank_of_others
    return Kind(rank=rank, title=_article(kind.__name__))


def load_start(config: Config, folder: Path) -> Bundle:
    """Load the bundle to start from, with the dropout of the configuration if it sets one.

    Raises:
        BundleError: if `tokenizer=file` names a different tokenizer than the bundle's.
    """
    start = load_bundle(folder)
    if config.choices.tokenizer == "file":
        given = construct(config.tokenizer, TokenizerTrainer).train([]).digest
        if given != start.tokenizer.digest:
            raise BundleError(
                f"tokenizer.path={config.tokenizer.path} is not the tokenizer of {folder} (sha256 {given})",
                f"the tokenizer that its weights were trained with (sha256 {start.tokenizer.digest})",
                "leave out tokenizer, since it comes from the bundle",
            )
    if config.get("dropout") is None:
        return start
    return _rebuilt(start, _dropped(start.model_config, config.dropout))


def check_new_backbone(config: Config, task: FinetuneTask) -> None:
    """Reject an architecture that the task does not support when training from scratch.

    Raises:
        ConfigError: if the architecture is not supported.
    """
    kind = target_of(config.model.backbone._target_, "model.backbone")
    if kind not in task.backbones:
        names = " or ".join(able.__name__ for able in task.backbones)
        raise ConfigError(
            f"model.backbone._target_ is {_article(kind.__name__)}, which this task does not support",
            _article(names),
            "leave out model.backbone, or name one of these",
        )
    if len(task.vocabularies) > 1 and kind is not EncoderDecoder:
        raise ConfigError(
            "task.separate_vocabularies=true, but the backbone shares one embedding for input and output",
            "model.backbone._target_=modules.transformer.EncoderDecoder",
            "set that, or leave out task.separate_vocabularies",
        )


def check_vocabularies(task: FinetuneTask, start: Bundle) -> None:
    """Reject separate vocabularies if the bundle has only one.

    Raises:
        ConfigError: if the bundle has one vocabulary.
    """
    if len(task.vocabularies) > 1 and not start.tokenizer.has_own_target:
        raise ConfigError(
            f"task.separate_vocabularies=true, but {start.folder} has one vocabulary for both sides",
            "training from scratch",
            "use INIT=none, or leave out task.separate_vocabularies",
        )


def with_architecture(start: Bundle, kind: type[Transformer], options: Mapping[str, Any]) -> Bundle:
    """Return the bundle with the same weights in the given architecture, with changed options."""
    present = start.model_config["backbone"]
    backbone = {**present, "_target_": f"{kind.__module__}.{kind.__qualname__}", **options}
    if backbone == present:
        return start
    return _rebuilt(start, {**start.model_config, "backbone": backbone})


def _rebuilt(start: Bundle, model_config: dict[str, Any]) -> Bundle:
    """Return the bundle with its weights in a model of another configuration.

    Missing token-type embeddings are initialized at the scale of the trained token embeddings, which after
    pretraining are many times larger than at initialization.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = build_model(model_config, start.tokenizer)
        if (types := model.backbone.type_embedding) is not None:
            types.weight.mul_(_size(start.model.backbone.embedding.weight) / _size(types.weight))
    model.load_state_dict({**model.state_dict(), **start.model.state_dict()})
    return replace(start, model=model.eval(), model_config=model_config)


def _size(weight: Tensor) -> Tensor:
    return weight.square().mean().sqrt()


def _dropped(model: Mapping[str, Any], dropout: float) -> dict[str, Any]:
    layer = {**model["backbone"]["layer"], "dropout": dropout}
    return {**model, "backbone": {**model["backbone"], "layer": layer}}


def completed(
    config: Config,
    start: Bundle | None,
    *,
    model: Mapping[str, Any],
    trainer: Mapping[str, Any] = MappingProxyType({}),
) -> Config:
    """Return the complete configuration of a training run, as it is recorded.

    It contains the bundle's tokenizer and folder, so that a resumed run uses the same bundle even if there is
    a newer one.

    Args:
        config: the configuration as typed.
        start: the bundle that the training starts from.
        model: the node of the model to train.
        trainer: computed trainer options, which are recorded as if they had been typed.
    """
    plain = to_plain(config)
    if start is not None:
        plain |= {key: value for key, value in start.config.items() if key in BUNDLE_KEYS}
        plain["init_from"] = str(start.folder)
        plain["choices"] |= {
            key: value for key, value in start.config["choices"].items() if key in BUNDLE_KEYS
        }
    return Config({**plain, "model": dict(model), "trainer": {**plain["trainer"], **trainer}})


def new_model(config: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node of a model to train from scratch, with the options, and `dropout` if given."""
    model = to_plain(config.model)
    model["backbone"] |= options
    return model if config.dropout is None else _dropped(model, config.dropout)


def describe_start(start: Bundle | None, spec: str | None) -> str:
    """Describe what fine-tuning starts from, and why."""
    if start is None:
        return "from scratch (INIT=none)"
    kind = type(start.model.backbone).__name__
    newest = spec is None or spec == LATEST
    why = f"the newest pretraining bundle that fits: {_article(kind)}" if newest else "named by INIT"
    return f"{report.short(start.folder)} ({why})"


def load_same_architecture(config: Config) -> Bundle:
    """Load the bundle that continued pretraining starts from.

    Raises:
        BundleError: if its architecture is not the one that the task trains.
    """
    trained = target_of(config.model.backbone._target_, "model.backbone")
    same = partial(_kind, backbones=(trained,), rank_of_others=1)
    start = load_start(config, find_bundle(config.init_from, Path(config.runs_dir), kind=same))
    has, needs = (
        target.rpartition(".")[2]
        for target in (start.model_config["backbone"]["_target_"], config.model.backbone._target_)
    )
    if has != needs:
        raise BundleError(
            f"{start.folder} is {_article(has)}, but task={config.choices.task} trains {_article(needs)}",
            "a bundle of the same architecture",
            "name another bundle, or the task that this one was trained with",
        )
    check_has_head(start)
    return start


def check_has_head(bundle: Bundle) -> None:
    """Reject a bundle that was imported without a head.

    Raises:
        BundleError: if the bundle has no head.
    """
    if isinstance(bundle.model.head, NoHead):
        raise BundleError(
            f"{bundle.folder} has no head, because the files it was imported from have none",
            "a bundle with a head",
            "import the whole model, or fine-tune this one for a task with a head of its own: "
            f"`make finetune-classify INIT={bundle.provenance['run']}`",
        )


def check_kept_head(task: FinetuneTask, start: Bundle) -> None:
    """Reject a bundle without a head if the task trains the head that a model was pretrained with.

    Raises:
        BundleError: if the bundle has no head.
    """
    if task.keeps_head and isinstance(start.model.head, NoHead):
        raise BundleError(
            f"{start.folder} has no head, because the files it was imported from have none, "
            "and this task trains the head that a model was pretrained with",
            "a bundle with a head; new weights would know nothing",
            "import the whole model (such as LlamaForCausalLM instead of LlamaModel), or fine-tune this one "
            "for a task with a head of its own, such as classify",
        )


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"
