"""Overrides for the steps of a pipeline: the step that each is for, and whether any step reads it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, Self

from pipeline.config.compose import keys_of_stage, keys_used
from pipeline.config.suggestions import suggest, suggest_key
from pipeline.errors import ConfigError

#: Keys that must be the same in all steps.
SHARED = ("runs_dir", "cache_dir", "pipeline_id")


class Addressed(Protocol):
    """The interface of a step in this module."""

    @property
    def name(self) -> str:
        """The name of the step."""
        ...

    @property
    def stage(self) -> str:
        """The stage that it runs."""
        ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """The prefixes that may precede its keys."""
        ...

    @property
    def reads(self) -> tuple[str, str] | None:
        """The step whose bundle it reads, and the key that names the bundle."""
        ...


@dataclass(frozen=True, kw_only=True)
class Override:
    """`key=value`, or `ADDRESS.key=value`.

    Args:
        typed: the override as the user typed it.
        address: the step, stage or task that it is for; None: for every step that reads it.
        word: the override as a stage takes it.
    """

    typed: str
    address: str | None
    word: str

    @property
    def top(self) -> str:
        """The top-level group or key."""
        return self.word.partition("=")[0].lstrip("+~").split(".")[0].split("@")[0]

    @classmethod
    def read(cls, typed: str, addresses: Iterable[str]) -> Self:
        """Parse the address, if there is one. The group `tokenizer` is not an address: it is for all steps.

        Raises:
            ConfigError: if `typed` is not an override.
        """
        if "=" not in typed.removeprefix("=") or typed.startswith("="):
            raise ConfigError(
                f"'{typed}' is not an override",
                "key=value or STEP.key=value",
                "for example finetune-qa.trainer.max_steps=500",
            )
        bare = typed.lstrip("+~")
        sign = typed[: len(typed) - len(bare)]
        key = bare.partition("=")[0]
        first, dot, _ = key.partition(".")
        if dot and first in addresses and first != "tokenizer":
            return cls(typed=typed, address=first, word=sign + bare[len(first) + 1 :])
        return cls(typed=typed, address=None, word=typed)


def refuse_unread(override: Override, steps: Sequence[Addressed]) -> None:
    """Reject an override that no step reads, with a suggestion.

    Raises:
        ConfigError: always.
    """
    meant = [step for step in steps if override.address is None or override.address in step.addresses]
    first = override.typed.partition("=")[0].split(".")[0]
    names = [step.name for step in steps]
    if override.address is None and "." in override.typed.partition("=")[0] and "-" in first:
        problem = f"{override.typed}: this pipeline has no step {first}"
        raise ConfigError(problem, f"one of {', '.join(names)}", suggest(first, names))
    known = list(dict.fromkeys(key for step in meant for key in keys_used(step.stage)))
    reader = f"{override.address} takes" if override.address else "no step of the pipeline takes"
    no = "no such key" if override.address else "such a key"
    everywhere = chain.from_iterable(keys_of_stage(stage) for stage in {step.stage: None for step in meant})
    remedy = suggest_key(override.word.partition("=")[0], known, everywhere)
    raise ConfigError(f"{override.typed}: {reader} {no}", f"one of {', '.join(known)}", remedy)


def refuse_managed(override: Override, steps: Sequence[Addressed]) -> None:
    """Reject names of bundles, of runs and of runs to resume, which the pipeline sets itself.

    Raises:
        ConfigError: if the override is one of these.
    """
    given = {step.reads[1] for step in steps if step.reads is not None and override.address is not None}
    if override.top == "resume":
        remedy = "leave it out: an unfinished step is resumed automatically"
    elif override.top == "bundle" or (override.top in given and override.address != "pretrain"):
        remedy = "leave it out: each step reads the bundle of the step before it"
    elif override.top == "name" and override.address not in {step.name for step in steps}:
        remedy = "give pipeline_id=NAME for the pipeline, or STEP.name=NAME for one run"
    elif override.top in SHARED and override.address is not None:
        remedy = f"give {override.word} for all steps"
    else:
        return
    raise ConfigError(f"{override.typed} cannot be set for a pipeline", "keys of its steps", remedy)
