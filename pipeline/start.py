"""What a training starts from: a bundle that fits, and the configuration with that bundle's model in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from modules.transformer import Transformer
from pipeline import bundle
from pipeline.bundle import Bundle, load_bundle
from pipeline.config import BUNDLE_KEYS, target_of, to_plain
from pipeline.errors import BundleError
from pipeline.runs import RunFolder, find_bundle, list_runs

#: `init_from` of a fine-tuning that starts from nothing.
NOTHING = "none"


def arrangement(folder: Path) -> type[Transformer]:
    """The class of a bundle's backbone."""
    node = json.loads((folder / "model.json").read_text(encoding="utf-8"))["backbone"]
    return target_of(node["_target_"], "model.backbone")  # type: ignore[no-any-return]


def newest_bundle(
    runs_dir: Path, stage: str, fits: Callable[[RunFolder], bool] = lambda run: True
) -> Path | None:
    """The best bundle of the newest run of `stage` that has one and fits."""
    for run in list_runs(runs_dir):
        folder = run.bundles / "best"
        if run.is_of(stage) and bundle.is_finished(folder) and fits(run):
            return folder
    return None


def find_start(spec: str | None, runs_dir: Path, backbones: tuple[type[Transformer], ...]) -> Path | None:
    """The bundle to fine-tune: the one named, or the newest pretraining bundle that can; None for `none`.

    Raises:
        BundleError: there is none, it is not finished, or its arrangement cannot serve.
    """
    if spec == NOTHING:
        return None
    names = " or ".join(kind.__name__ for kind in backbones)
    if spec is None or spec == "latest":
        found = newest_bundle(
            runs_dir, "pretrain", lambda run: arrangement(run.bundles / "best") in backbones
        )
        if found is None:
            raise BundleError(
                f"no finished pretraining bundle with {_article(names)} under {runs_dir}",
                "a bundle to start from",
                "run `make pretrain` first, name one with INIT=..., or start from nothing with INIT=none",
            )
        return found
    folder = find_bundle(spec, runs_dir)
    if (kind := arrangement(folder)) not in backbones:
        able = newest_bundle(runs_dir, "pretrain", lambda run: arrangement(run.bundles / "best") in backbones)
        raise BundleError(
            f"{folder} holds {_article(kind.__name__)}, which this task cannot stand on",
            f"{_article(names)}",
            f"use INIT={able.parent.parent.name}" if able else "pretrain one first, or use INIT=none",
        )
    return folder


def with_bundle(config: DictConfig, start: Bundle, **model: Any) -> DictConfig:
    """The configuration with the bundle's model and tokenizer for its own: what is recorded is true.

    `model` are parts of the model that differ from the bundle's.
    """
    theirs = {key: value for key, value in start.config.items() if key in BUNDLE_KEYS}
    choices = {key: value for key, value in start.config["choices"].items() if key in BUNDLE_KEYS}
    plain = {**to_plain(config), **theirs, "model": {**start.model_config, **model}}
    made = OmegaConf.create({**plain, "choices": {**plain["choices"], **choices}})
    OmegaConf.set_readonly(made, True)
    return made


def load_same_arrangement(config: DictConfig) -> Bundle:
    """The bundle that continued pretraining starts from.

    Raises:
        BundleError: it is of another arrangement than the task trains.
    """
    start = load_bundle(find_bundle(config.init_from, Path(config.runs_dir)))
    has, needs = (
        target.rpartition(".")[2]
        for target in (start.model_config["backbone"]["_target_"], config.model.backbone._target_)
    )
    if has != needs:
        raise BundleError(
            f"{start.folder} holds {_article(has)}, and task={config.choices.task} trains {_article(needs)}",
            "a bundle of the same arrangement",
            "name another bundle, or the task that this one was trained with",
        )
    return start


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"
