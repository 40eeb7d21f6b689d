"""The default optimizer for fine-tuning imported weights.

The learning rates of `optimizer=muon` and `optimizer=finetune` suit small models pretrained with Prelude.
Within a few steps, they would undo what an imported model has learned.
"""

from collections.abc import Mapping
from typing import Any

from pipeline import report
from pipeline.config.compose import compose_unchecked
from pipeline.config.grammar import read_overrides
from pipeline.config.plain import Config, to_plain

GROUP = "optimizer"


def is_imported(provenance: Mapping[str, Any] | None) -> bool:
    """Return whether the lineage of a bundle begins with imported weights."""
    while provenance:
        if provenance.get("imported"):
            return True
        provenance = (provenance.get("parent") or {}).get("provenance")
    return False


def with_fitting_rates(config: Config, provenance: Mapping[str, Any] | None) -> Config:
    """Select the optimizer for imported weights, if the user has chosen none; typed options of it are kept.

    A recorded configuration is left unchanged, and so is one in which an optimizer was chosen, by name or by
    an experiment.
    """
    if config.words is None or not is_imported(provenance):
        return config
    typed = read_overrides(config.words)
    keys = {override.key_or_group for override in typed}
    if keys & {GROUP, "experiment"}:
        return config
    choice = "imported_lora" if to_plain(config.get("peft") or {}) else "imported"
    own = [
        word
        for word, override in zip(config.words, typed, strict=True)
        if override.key_or_group.startswith(f"{GROUP}.")
    ]
    words = [f"task={config.choices.task}", f"{GROUP}={choice}", *own]
    made = compose_unchecked(config.stage.name, words)[GROUP]
    report.say(
        "Rates",
        f"AdamW, lr {made.lr:g} (optimizer={choice}), since the weights were imported; change this with "
        "optimizer.lr=... or optimizer=...",
    )
    choices = {**to_plain(config.choices), GROUP: choice}
    return Config({**config, GROUP: made, "choices": choices}, words=config.words)
