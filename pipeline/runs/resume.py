"""The configuration of a run that is resumed by name: the recorded one, with the changes of the command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import processes
from pipeline.config.check import check
from pipeline.config.compose import composed
from pipeline.config.grammar import read_overrides
from pipeline.config.groups import groups
from pipeline.config.plain import Config, select, to_plain
from pipeline.config.schema import NOTHING
from pipeline.runs.changes import forbidden_change, overlaid, recorded, with_key
from pipeline.runs.find import LATEST, find_bundle
from pipeline.runs.folders import changes_of, named_run
from pipeline.runs.record import RunFolder

#: Groups that may be changed: where a run is tracked, and how sample texts are generated.
FREE_GROUPS = ("tracking", "sampling")

#: Of torchrun and srun, the number of processes is the number of devices.
DEVICES = "trainer.devices"


def with_recorded(config: Config, words: Sequence[str]) -> Config:
    """Return the configuration recorded by the run that `resume` names, with the typed changes.

    Args:
        config: the composed overrides, unchecked, since their keys may belong to groups chosen by the run.
        words: the overrides as typed.

    Raises:
        RunError: if there is no such run, it is finished, or it cannot be resumed with these changes.
        ConfigError: if a key or a value is not valid for the run.
    """
    run = named_run(config)
    made = Config(_changed(run, config, words))
    check(made)
    changes_of(run, made)
    return made


def _changed(run: RunFolder, config: Config, words: Sequence[str]) -> dict[str, Any]:
    """Return the recorded configuration, with the typed groups and keys."""
    typed = read_overrides(words)
    chosen = [override for override in typed if override.key_or_group in groups()]
    keys = [each.key_or_group for each in typed if each not in chosen and not each.is_delete()]
    original, requested = to_plain(recorded(run)), to_plain(config)
    defaults = to_plain(composed(config.stage.name, chosen)) if keys else requested
    plain: dict[str, Any] = overlaid(original, requested, defaults)
    for key in keys:  # even if the typed value is the default
        plain = with_key(plain, key, select(requested, key))
    for group in (override.key_or_group for override in chosen):
        before, now = original["choices"].get(group), requested["choices"].get(group)
        if before != now and group not in FREE_GROUPS:
            raise forbidden_change(run, group, before, now)
        if before != now:
            plain[group] = requested[group]
    if processes.count_launched() > 1 and DEVICES not in keys:
        plain = with_key(plain, DEVICES, processes.count_launched())
    if "init_from" in keys:
        plain["init_from"] = _same_start(original.get("init_from"), requested.get("init_from"), config)
    kept = {"name": original["name"], "stage": requested["stage"]}
    return {**plain, "resume": config.resume, "runs_dir": config.runs_dir, **kept}


def _same_start(before: str | None, now: str | None, config: Config) -> str | None:
    """Return the recorded start if `now` names the same bundle, and else `now`; `latest` may have changed."""
    if before is None or now is None or now in (before, NOTHING):
        return now
    if now == LATEST:
        return before
    folder = find_bundle(now, Path(config.runs_dir))
    return before if folder.resolve() == Path(before).resolve() else str(folder)
