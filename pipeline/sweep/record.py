"""Record a sweep in its folder, and find the sweep to resume."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import RunError
from pipeline.files import write_whole
from pipeline.runs.folders import RunFolder, list_runs

RECORD = "sweep.json"


def write_record(folder: Path, identity: Mapping[str, Any]) -> None:
    """Record the facts that must not change when the sweep is resumed."""
    write_whole(folder / RECORD, json.dumps(identity, indent=2, ensure_ascii=False) + "\n")


def find_sweep(runs_dir: Path, resume: bool | str, identity: Mapping[str, Any]) -> RunFolder:
    """Return the sweep of that name, or the newest unfinished one with the same identity.

    A finished sweep is returned too: it may get more trials.

    Raises:
        RunError: if there is no such sweep, or it has another identity.
    """
    sweeps = [run for run in list_runs(runs_dir) if (run.path / RECORD).exists()]
    if isinstance(resume, str):
        found = [run for run in sweeps if resume.rstrip("/") in (run.name, str(run.path))]
    else:
        same = [run for run in sweeps if not _differences(run, identity)]
        unfinished = [run for run in sweeps if run.record.status != "FINISHED"]
        found = [*(run for run in same if run in unfinished), *same, *unfinished]
    if not found:
        what = f"called '{resume}'" if isinstance(resume, str) else "to resume"
        known = ", ".join(run.name for run in sweeps[:5]) or "none"
        raise RunError(
            f"there is no sweep {what} in {runs_dir}",
            f"a sweep that was started before ({known})",
            "name one with RESUME=NAME, or start one without RESUME",
        )
    _check_same(found[0], identity)
    return RunFolder(found[0].path, found[0].record, resumed=True)


def _check_same(run: RunFolder, identity: Mapping[str, Any]) -> None:
    differences = _differences(run, identity)
    if differences:
        key, (before, now) = next(iter(differences.items()))
        name = "" if key in ("keys", "words") else f"{key}="
        raise RunError(
            f"{run.path} was started with {name}{before}, not {now}",
            "the stage, keys, values and sampler that it was started with",
            f"use the recorded ones (see {run.path / RECORD}), or start a new sweep without RESUME",
        )


def _differences(run: RunFolder, identity: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return name -> (recorded value, value now)."""
    recorded = json.loads((run.path / RECORD).read_text(encoding="utf-8"))
    return {
        key: (_typed(recorded.get(key)), _typed(now))
        for key, now in identity.items()
        if recorded.get(key) != now
    }


def _typed(value: Any) -> str:
    """Format a value as the user types it."""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={text}" for key, text in value.items())
    return " ".join(value) or "(none)" if isinstance(value, list) else str(value)
