"""Find the bundle that a command names, or the newest of the best kind that is not a trial of a sweep."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline import report
from pipeline.errors import BundleError
from pipeline.runs import bundle
from pipeline.runs.folders import RunFolder, list_runs, made_bundle

#: The word for the newest bundle.
LATEST = "latest"

#: The most skipped runs that are named; of others only the number is reported.
MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How well a run's bundle fits.

    Args:
        rank: 0 is the best; None: it does not fit.
        title: what it is, to explain why it was skipped.
    """

    rank: int | None
    title: str


def any_kind(run: RunFolder) -> Kind:
    """The kind of every run if all bundles fit equally well."""
    return Kind(rank=0, title="")


def find_bundle(
    spec: str,
    runs_dir: Path,
    *,
    stage: str = "pretrain",
    task: str | None = None,
    kind: Callable[[RunFolder], Kind] = any_kind,
) -> Path:
    """Find the bundle that `spec` names: a run's name, a run's folder, a bundle's folder, or `latest`, which
    is the newest one of the best kind of `stage` and, if it is given, of `task`.

    Raises:
        BundleError: if there is no such bundle, or it is not finished.
    """
    if spec == LATEST:
        found = newest_bundle(runs_dir, stage=stage, task=task, kind=kind)
        if found is not None:
            return found
        command = stage if task is None else f"{stage}-{task}"
        raise BundleError(
            f"there is no finished {command} bundle under {runs_dir}",
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
    raise BundleError(
        f"there is no bundle '{spec}'", expected, "name one of these, or run `make pretrain` first"
    )


def newest_bundle(
    runs_dir: Path,
    *,
    stage: str | None = None,
    task: str | None = None,
    kind: Callable[[RunFolder], Kind] = any_kind,
) -> Path | None:
    """Choose a bundle of a stage and a task; reports which newer ones were skipped, and why."""
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
        report.say("Note", f"skipped: {_list([_why(run, each, best) for run, each in newer])}")
    return taken.bundles / "best"


def _kind_of(run: RunFolder, kind: Callable[[RunFolder], Kind]) -> Kind:
    """Return the kind of a run; a damaged or foreign bundle does not fit."""
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
    """Explain a folder without a bundle: its run is unfinished, or writes none, or it was deleted."""
    path = folder.parent.parent
    run = next((run for run in list_runs(path.parent) if run.path == path), None)
    problem = f"{folder} is not a finished bundle"
    if run is None or run.record.status != "FINISHED":
        return BundleError(problem, expected, "finish its run with RESUME=1, or name another bundle")
    if not made_bundle(run):
        return BundleError(
            f"{problem}: {run.record.stage} does not write one", expected, "name another bundle"
        )
    return BundleError(
        f"{problem}: its run is finished, but the bundle was deleted or is incomplete",
        expected,
        f"make it again with `make reproduce RUN={run.name}`, or name another bundle",
    )
