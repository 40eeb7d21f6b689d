"""The bundle that a command names, or else the newest of the best kind that is no trial of a sweep."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline import report
from pipeline.errors import BundleError
from pipeline.runs import bundle
from pipeline.runs.folders import RunFolder, list_runs, made_bundle

#: Names no run, but the newest.
LATEST = "latest"

#: Runs that are named as passed over; of others only their number is said.
MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How well a run's bundle serves.

    Args:
        rank: 0 is the best; None: it does not fit.
        title: what it is, for whoever wonders why it was passed over.
    """

    rank: int | None
    title: str


def any_kind(run: RunFolder) -> Kind:
    """Of bundles that serve equally well."""
    return Kind(rank=0, title="")


def find_bundle(
    spec: str,
    runs_dir: Path,
    *,
    stage: str = "pretrain",
    task: str | None = None,
    kind: Callable[[RunFolder], Kind] = any_kind,
) -> Path:
    """The bundle that `spec` names: the name of a run, a run's folder, a bundle's folder, or `latest`, which
    is the newest one of the best kind of `stage` and, if it is given, of `task`.

    Raises:
        BundleError: if there is none, or it is not finished.
    """
    if spec == LATEST:
        found = newest_bundle(runs_dir, stage=stage, task=task, kind=kind)
        if found is not None:
            return found
        command = stage if task is None else f"{stage}-{task}"
        raise BundleError(
            f"no finished {command} bundle under {runs_dir}",
            "at least one finished run",
            f"run `make {command}` first",
        )
    candidates = [Path(spec), Path(spec) / "bundles" / "best", runs_dir / spec / "bundles" / "best"]
    for folder in candidates:
        if bundle.is_finished(folder):
            return folder
    names = [run.name for run in list_runs(runs_dir) if bundle.is_finished(run.bundles / "best")]
    known = ", ".join(names[:5]) or "none yet"
    expected = f"a bundle's folder, or the name of a finished run ({known})"
    for folder in candidates:
        if (folder / "model.json").exists() or (folder.parent.parent / "run.json").exists():
            raise _no_finished(folder, expected)
    raise BundleError(f"no bundle '{spec}'", expected, "name one of these, or run `make pretrain` first")


def newest_bundle(
    runs_dir: Path,
    *,
    stage: str | None = None,
    task: str | None = None,
    kind: Callable[[RunFolder], Kind] = any_kind,
) -> Path | None:
    """The bundle to take of those of a stage and a task; says which newer ones were passed over, and why."""
    runs = [
        (run, _kind_of(run, kind))
        for run in list_runs(runs_dir)
        if (stage is None or run.is_of(stage, task)) and bundle.is_finished(run.bundles / "best")
    ]
    able = [(run, found) for run, found in runs if found.rank is not None]
    if not able:
        return None
    taken, best = min(able, key=lambda pair: (pair[1].rank, pair[0].record.sweep_id is not None))
    newer = runs[: [run for run, _ in runs].index(taken)]
    if newer:
        report.say("Note", f"passed over: {_list([_why(run, each, best) for run, each in newer])}")
    return taken.bundles / "best"


def _kind_of(run: RunFolder, kind: Callable[[RunFolder], Kind]) -> Kind:
    """A bundle that is damaged, or not of this project, is in nobody's way unless it is named."""
    try:
        return kind(run)
    except BundleError:
        return Kind(rank=None, title="its bundle cannot be read")


def _why(run: RunFolder, found: Kind, best: Kind) -> str:
    trial = f"a trial of sweep {run.record.sweep_id}"
    return f"{run.name} ({trial if found.rank == best.rank else found.title})"


def _list(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _no_finished(folder: Path, expected: str) -> BundleError:
    """What to do about a folder without a bundle: its run may go on, or makes none, or it is gone."""
    path = folder.parent.parent
    run = next((run for run in list_runs(path.parent) if run.path == path), None)
    problem = f"{folder} is not a finished bundle"
    if run is None or run.record.status != "FINISHED":
        return BundleError(problem, expected, "let it finish with RESUME=1, or name another")
    if not made_bundle(run):
        return BundleError(f"{problem}: a run of {run.record.stage} makes none", expected, "name another")
    return BundleError(
        f"{problem}: its run is finished, and what that made is gone or not whole",
        expected,
        f"make it again with `make reproduce RUN={run.name}`, or name another",
    )
