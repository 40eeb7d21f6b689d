"""The configuration as it is recorded: with the defaults of the classes, which yaml files do not repeat."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.config.plain import Config, to_plain
from pipeline.config.signatures import signature_of

#: The trainer options that stages without training read.
READ_WITHOUT_TRAINING = ("_target_", "batch_size", "precision", "accelerator", "val_rows")


def with_defaults(config: Config) -> dict[str, Any]:
    """Return the complete configuration as plain containers, with a default for each option that is left out.

    It is the same whether or not a default is typed, and does not change when a default in the code does.
    A stage that reads a bundle takes the task's options from there, and only typed options override them, so
    no defaults are added to its task.

    Raises:
        ConfigError: if a class cannot be imported.
    """
    plain: dict[str, Any] = to_plain(config)
    from_bundle = ("task",) if "bundle" in plain else ()
    return {key: value if key in from_bundle else filled(value, key) for key, value in plain.items()}


def config_hash(config: Config, *, without: Iterable[str] = ()) -> str:
    """Return the sha256 of the configuration with its defaults, as canonical JSON, without the given keys."""
    kept = {key: value for key, value in with_defaults(config).items() if key not in set(without)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def filled(node: Any, path: str) -> Any:
    """Add the defaults of its class to a node and to all nodes below it; `path` is for error messages."""
    if not isinstance(node, Mapping):
        return node
    given = {key: filled(value, f"{path}.{key}") for key, value in node.items()}
    if "_target_" not in node:
        return given
    return given | {
        name: value
        for name, value in signature_of(node["_target_"], path).defaults.items()
        if name not in given
    }


def without_training(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration without the options of training, if its stage does not train."""
    trainer = plain.get("trainer")
    if "optimizer" in plain or not isinstance(trainer, Mapping):
        return dict(plain)
    read = {key: value for key, value in trainer.items() if key in READ_WITHOUT_TRAINING}
    return {**plain, "trainer": read}
