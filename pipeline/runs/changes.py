"""The changes allowed when a run is resumed: length, devices, and options that do not affect its weights."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config.construct import construct
from pipeline.config.plain import Config, to_plain
from pipeline.config.recorded import with_defaults
from pipeline.errors import RunError
from pipeline.files import read_yaml
from pipeline.machine.options import TrainerOptions
from pipeline.runs.record import RunFolder
from pipeline.words import shorten

#: Options that determine how long a run trains.
LONGER = (
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.time_budget_s",
    "trainer.patience",
    "trainer.plateau",
)

#: Options that determine what is shown, saved, logged or recomputed to save memory, the device, and whether
#: its compiler is used.
FREE = (
    "trainer.accelerator",
    "trainer.compile",
    "trainer.activation_checkpointing",
    "trainer.strategy",
    "trainer.num_workers",
    "trainer.log_every_steps",
    "trainer.checkpoint_every_steps",
    *("prompts", "sampling", "log_corpus_text"),
)

#: Options that distribute the rows of a step over devices and forward passes.
SPREAD = ("trainer.devices", "trainer.batch_size", "trainer.accumulate")

#: Keys of the command itself, which do not count as changes to a run.
OF_THE_COMMAND = ("resume", "name", "runs_dir", "cache_dir", "tracking", "pipeline_id", "choices", "stage")

#: The most characters of a value, and the most numbers of devices, in a message.
MAX_CHARS, MOST_DIVISORS = 60, 12

Changes = dict[str, tuple[Any, Any]]


def recorded(run: RunFolder) -> dict[str, Any]:
    """Read the configuration that the run recorded, with all defaults.

    Raises:
        RunError: if the configuration cannot be read.
    """
    file = run.path / "config.yaml"
    try:
        return with_defaults(Config(read_yaml(file)))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{file} cannot be read ({error})", "the configuration that the run recorded", "start a new run"
        ) from error


def check_changes(run: RunFolder, config: Config) -> Changes:
    """Return dotted key -> (before, now) for each change that `config` makes to the run.

    Raises:
        RunError: if a change is not allowed, or has no effect.
        ConfigError: if this machine does not have the devices.
    """
    original, requested = (to_plain(tree) for tree in (recorded(run), with_defaults(config)))
    before, now = dict(leaves(original)), dict(leaves(requested))
    changes = {
        key: (before.get(key), now.get(key))
        for key in {**before, **now}
        if key.partition(".")[0] not in OF_THE_COMMAND and not _same(before.get(key), now.get(key))
    }
    for key, (old, new) in changes.items():
        if key not in (*LONGER, *FREE, *SPREAD) and key.partition(".")[0] not in FREE:
            raise forbidden_change(run, key, old, new)
    if "optimizer" in requested:
        _check_rows_per_step(run, original["trainer"], requested["trainer"])
    if changes.keys() & set(LONGER[:2]):
        _check_length(run, requested, changes)
    return changes


def forbidden_change(run: RunFolder, key: str, before: Any, now: Any) -> RunError:
    """Return the error for a change that is not allowed."""
    return RunError(
        f"{run.path} was started with {key}={brief(before)}, not {brief(now)}",
        f"the same value: only {', '.join(LONGER)}, how the rows of a step are spread over devices "
        f"({', '.join(SPREAD)}), and what is recomputed, shown or logged may be changed",
        f"leave out {key}, or start a new run without RESUME",
    )


def _check_rows_per_step(run: RunFolder, original: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Reject steps with more or fewer rows than before, which would lead to different weights.

    Raises:
        RunError: with the options that keep the number of rows on these devices.
        ConfigError: if this machine does not have the devices.
    """
    from pipeline.machine.devices import count_devices, rows_per_step  # torch takes seconds to import

    if not isinstance(original["devices"], int):  # written by an older version
        return
    before = original["batch_size"] * original["accumulate"] * original["devices"]
    options = construct(requested, TrainerOptions)
    now, n_devices = rows_per_step(options), count_devices(options)
    if now == before:
        return
    raise RunError(
        f"{run.path} was started with {before} rows per step, and would now have {now}: trainer.batch_size="
        f"{options.batch_size} and trainer.accumulate={options.accumulate} on {n_devices} "
        f"{'device' if n_devices == 1 else 'devices'}",
        "the same number of rows per step, so that each step has the same rows",
        _same_rows(run, before, n_devices, original["batch_size"]),
    )


def _same_rows(run: RunFolder, rows: int, n_devices: int, most: int) -> str:
    """Return the options for `rows` per step on `n_devices`, with at most `most` per forward pass."""
    each, rest = divmod(rows, n_devices)
    if rest:
        fitting = [str(n) for n in range(1, rows + 1) if rows % n == 0]
        return f"use a number of devices that divides {rows}: {', '.join(fitting[:MOST_DIVISORS])}"
    accumulate = next(n for n in range(1, each + 1) if each % n == 0 and each // n <= most)
    return f"resume={run.name} trainer.batch_size={each // accumulate} trainer.accumulate={accumulate}"


def _check_length(run: RunFolder, requested: Mapping[str, Any], changes: Changes) -> None:
    """Reject a different length if it would alter steps already done, or have no effect."""
    trainer = requested["trainer"]
    if trainer["curriculum"] > 0:
        raise RunError(
            f"{run.path} has trainer.curriculum={trainer['curriculum']}, which is a fraction of its steps",
            "the original number of steps, since another number would change the order of rows",
            "start a new run without RESUME",
        )
    if "trainer.max_steps" not in changes:
        return
    if trainer["max_epochs"] is not None:
        raise RunError(
            f"the length of {run.path} is determined by trainer.max_epochs={trainer['max_epochs']}",
            "a change of trainer.max_epochs",
            "give trainer.max_epochs instead of trainer.max_steps",
        )
    from pipeline.runs.checkpoint_files import AtomicCheckpointIO  # Lightning takes seconds to import

    # On the meta device, no tensor data is read.
    saved = AtomicCheckpointIO().load_file(run.last_checkpoint, map_location="meta")
    before, now = changes["trainer.max_steps"]
    if now is not None and now < saved["global_step"]:
        raise ends_before(saved["global_step"], now)
    if now is None or before is None or now > before:
        _check_not_ended(run, trainer, saved["callbacks"])


def _check_not_ended(run: RunFolder, trainer: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Reject more steps for a run that was stopped because its validations did not improve."""
    for name, state in states.items():
        if name.startswith("Plateau") and state["max_steps"] is not None:
            raise RunError(
                f"{run.path} stopped improving: its learning rate decays to 0 at step {state['max_steps']:,}",
                "a run whose learning rate was not decayed early",
                "start a new run with trainer.plateau=null and without RESUME",
            )
        patience = trainer["patience"]
        if name.startswith("EarlyStopping") and patience is not None and state["wait_count"] >= patience:
            raise RunError(
                f"{run.path} was stopped after {state['wait_count']} validations without a better result",
                "a larger trainer.patience",
                "add trainer.patience=null, or give a larger number",
            )


def ends_before(step: int, max_steps: int) -> RunError:
    """Return the error for a run that would end before the step it has already reached."""
    return RunError(
        f"the run is already at step {step:,}, but trainer.max_steps is {max_steps:,}",
        f"{step:,} steps or more",
        f"give trainer.max_steps={step} to end it there",
    )


def describe(changes: Changes) -> list[str]:
    """Describe each change."""
    return [f"{key}: {brief(before)} -> {brief(now)}" for key, (before, now) in changes.items()]


def brief(value: Any) -> str:
    """Format a value as JSON, shortened."""
    return shorten(json.dumps(value, ensure_ascii=False), MAX_CHARS)


def overlaid(recorded: Any, requested: Any, defaults: Any) -> Any:
    """Return `recorded` with the changes from `defaults`, the tree without overrides, to `requested`."""
    if not all(isinstance(node, Mapping) for node in (recorded, requested, defaults)):
        return requested
    merged = {key: value for key, value in recorded.items() if key in requested or key not in defaults}
    for key, value in requested.items():
        if key not in defaults:
            merged[key] = value
        elif value != defaults[key]:
            merged[key] = overlaid(merged.get(key), value, defaults[key])
    return merged


def with_key(plain: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return the tree with one value replaced at a dotted key."""
    name, _, rest = key.partition(".")
    below = plain.get(name)
    inner = below if isinstance(below, Mapping) else {}
    return {**plain, name: with_key(inner, rest, value) if rest else value}


def _same(before: Any, now: Any) -> bool:
    return bool(before == now or repr(before) == repr(now))  # NaN counts as equal to NaN


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each leaf of a tree."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
