"""The configuration of a run that is named to go on: its own, with what the command changes of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.check import check
from pipeline.config.compose import composed
from pipeline.config.grammar import read_overrides
from pipeline.config.groups import groups
from pipeline.config.plain import Config, select, to_plain
from pipeline.config.schema import NOTHING
from pipeline.runs.changes import not_as_it_began, overlaid, recorded, with_key
from pipeline.runs.find import LATEST, find_bundle
from pipeline.runs.folders import changes_of, named_run
from pipeline.runs.record import RunFolder

#: Groups that may be chosen anew: they tell where a run is recorded, and how text is shown.
FREE_GROUPS = ("tracking", "sampling")


def with_recorded(config: Config, words: Sequence[str]) -> Config:
    """What the run that `resume` names recorded, with what these words change of it.

    Args:
        config: what the words give, not checked: their keys may be those of the run's own groups.
        words: as they were typed.

    Raises:
        RunError: there is no such run, it is finished, or it cannot go on with that.
        ConfigError: a key or a value does not fit the run.
    """
    run = named_run(config)
    made = Config(_changed(run, config, words))
    check(made)
    changes_of(run, made)
    return made


def _changed(run: RunFolder, config: Config, words: Sequence[str]) -> dict[str, Any]:
    """What the run recorded, with the groups and keys that are typed."""
    typed = read_overrides(words)
    chosen = [override for override in typed if override.key_or_group in groups()]
    keys = [each.key_or_group for each in typed if each not in chosen and not each.is_delete()]
    began, asked = to_plain(recorded(run)), to_plain(config)
    without = to_plain(composed(config.stage.name, chosen)) if keys else asked
    plain: dict[str, Any] = overlaid(began, asked, without)
    for key in keys:  # though they were typed as they are by default
        plain = with_key(plain, key, select(asked, key))
    for group in (override.key_or_group for override in chosen):
        before, now = began["choices"].get(group), asked["choices"].get(group)
        if before != now and group not in FREE_GROUPS:
            raise not_as_it_began(run, group, before, now)
        if before != now:
            plain[group] = asked[group]
    if "init_from" in keys:
        plain["init_from"] = _same_start(began.get("init_from"), asked.get("init_from"), config)
    kept = {"name": began["name"], "stage": asked["stage"]}
    return {**plain, "resume": config.resume, "runs_dir": config.runs_dir, **kept}


def _same_start(before: str | None, now: str | None, config: Config) -> str | None:
    """The bundle that the run began with, if that is what is named; the newest one was another then."""
    if before is None or now is None or now in (before, NOTHING):
        return now
    if now == LATEST:
        return before
    folder = find_bundle(now, Path(config.runs_dir))
    return before if folder.resolve() == Path(before).resolve() else str(folder)
