"""Compose the configuration of a stage with Hydra, and drop what the stage does not read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.check import check, every_key
from pipeline.config.grammar import read_overrides, without_interpolation
from pipeline.config.groups import CONFIGS, groups
from pipeline.config.plain import Config, to_plain
from pipeline.config.schema import BUNDLE_KEYS, NOTHING, Root
from pipeline.config.suggestions import suggest, suggest_key
from pipeline.config.targets import parameters_of
from pipeline.errors import ConfigError


def compose(stage: str, overrides: Sequence[str]) -> Config:
    """Compose and check the configuration of `stage`; the result is resolved and read-only.

    Raises:
        ConfigError: for an unknown group, option or key, a wrong type, a missing or an impossible value.
    """
    config = compose_unchecked(stage, overrides)
    check(config)
    return config


def compose_unchecked(stage: str, overrides: Sequence[str]) -> Config:
    """Compose without the check against signatures, which may have to import every class (seconds).

    Raises:
        ConfigError: for an unknown group, option or top-level key.
    """
    parsed = read_overrides(overrides)
    check_overrides(stage, parsed)
    return Config(composed(stage, parsed), words=overrides)


def composed(stage: str, overrides: Sequence[Override]) -> Config:
    """Compose overrides with Hydra, and drop what the stage does not read.

    Raises:
        ConfigError: if Hydra cannot compose the overrides.
    """
    forced = [_forced(override) for override in overrides]
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = hydra.compose("run", [f"stage={stage}", *forced], return_hydra_config=True)
        choices = {
            group: choice for group, choice in config.hydra.runtime.choices.items() if "/" not in group
        }
        config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(
            str(error).strip().splitlines()[0], "a valid configuration", "see `make show-config`"
        ) from error
    plain["choices"] = choices
    _check_top(plain)
    kept = ("stage", "choices", *plain["stage"]["uses"])
    return Config({key: value for key, value in plain.items() if key in kept})


def keys_used(stage: str) -> list[str]:
    """Return the groups and keys that a stage reads."""
    node = OmegaConf.load(CONFIGS / "stage" / f"{stage}.yaml")
    return list(OmegaConf.select(node, "stage", default=node).uses)


def check_overrides(stage: str, overrides: Sequence[Override]) -> None:
    """Reject overrides of groups, options and keys that do not exist or that the stage does not read."""
    options = groups()
    stages = options["stage"]
    if stage not in stages:
        words = [*stages, "show-config"]
        remedy = suggest(stage, words, "see `make help`")
        raise ConfigError(f"unknown stage '{stage}'", f"one of {', '.join(words)}", remedy)
    used = keys_used(stage)
    for override in overrides:
        group = override.key_or_group
        top = group.split(".")[0].split("@")[0]
        if top not in used:
            remedy = suggest_key(group, used, keys_of_stage(stage, overrides))
            raise ConfigError(f"{top}: {stage} takes no such key", f"one of {', '.join(used)}", remedy)
        value = override.value()
        if group in options and isinstance(value, str) and value not in options[group]:
            expected = f"one of {', '.join(options[group])}"
            raise ConfigError(f"{group}={value}: no such option", expected, suggest(value, options[group]))
    _check_start(stage, overrides)


def _check_start(stage: str, overrides: Sequence[Override]) -> None:
    """Reject options of the model or the tokenizer if these come from a bundle; a tokenizer file is allowed.

    `finetune` starts from a bundle unless `init_from=none`, `pretrain` only if `init_from` is given.
    """
    given = {override.key_or_group: override.value() for override in overrides}
    start = given.get("init_from")
    if start == (NOTHING if stage == "finetune" else None):
        return
    from_file = given.get("tokenizer") == "file"  # its digest is compared when the bundle is read
    for key in given:
        if key.split(".")[0] in BUNDLE_KEYS and not (from_file and key.split(".")[0] == "tokenizer"):
            other = "init_from is not none" if start is None else f"so is init_from={start}"
            remedy = "give init_from=none" if start is None else "leave out init_from"
            raise ConfigError(
                f"{key} is given, and {other}",
                "the model and the tokenizer of the bundle, unchanged",
                f"leave out {key}, or {remedy}",
            )


def keys_of_stage(stage: str, overrides: Sequence[Override] = ()) -> Iterator[str]:
    """Yield every key that a stage reads, with the chosen options where there are any."""
    options = groups()
    chosen = [each for each in overrides if each.value() in options.get(each.key_or_group, ())]
    yield from every_key(to_plain(composed(stage, chosen)))


def _check_top(config: Mapping[str, Any]) -> None:
    """Reject a top-level key that is neither a group nor a scalar, such as one misspelt in a yaml file."""
    known = [
        *groups(),
        "choices",
        "cleaning",
        "estimate",
        "freezing",
        "serving",
        "harness",
        "sweep",
        *(name for name in parameters_of(Root)),
    ]
    for key in config:
        if key not in known:
            raise ConfigError(f"{key}: no such key", f"one of {', '.join(known)}", suggest(key, known))


def _forced(override: Override) -> str:
    """Allow the override to set keys that no yaml has: they are checked against signatures, not by Hydra."""
    line = without_interpolation(override)
    is_group = override.key_or_group in groups()
    return line if is_group or line[0] in "+~" else f"++{line}"
