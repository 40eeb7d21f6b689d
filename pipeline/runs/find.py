"""Find the bundle that a command names, or the newest suitable one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline import report
from pipeline.errors import BundleError
from pipeline.runs import bundle
from pipeline.runs.folders import RunFolder, list_runs, made_bundle

#: The name that stands for the newest bundle.
LATEST = "latest"

#: The most skipped runs that are named; for the rest, only their number is reported.
MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How suitable a run's bundle is.

    Args:
        rank: 0 is the best; None: unsuitable.
        title: a description, to explain why the run was skipped.
    """

    rank: int | None
    title: str


def any_kind(run: RunFolder) -> Kind:
    """Rate all bundles as equally suitable."""
    return Kind(rank=0, title="")


def find_bundle(
    spec: str,
    runs_dir: Path,
    *,
    stage: str = "pretrain",
    task: str | None = None,
    kind: Callable[[RunFolder], Kind] = any_kind,
) -> Path:
    """Find a bundle by the name or folder of its run, by its own folder, or by `latest`.

    `latest` is the newest bundle of the best kind, made by `stage` and, if given, for `task`; trials of
    sweeps come last.

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
    """Choose a bundle of a stage and a task, and report which newer ones were skipped, and why."""
    runs = [
        (run, _kind_of(run, kind))
        for run in list_runs(runs_dir)
        if (stage is None or run.is_of(stage, task)) and bundle.is_finished(run.bundles / "best")
    ]
    suitable = [(run, found) for run, found in runs if found.rank is not None]
    if not suitable:
        return None
    chosen, best = min(suitable, key=lambda pair: (pair[1].rank, pair[0].record.sweep_id is not None))
    newer = runs[: [run for run, _ in runs].index(chosen)]
    if newer:
        report.say("Note", f"skipped: {_list([_why(run, each, best) for run, each in newer])}")
    return chosen.bundles / "best"


def _kind_of(run: RunFolder, kind: Callable[[RunFolder], Kind]) -> Kind:
    """Return the kind of a run; a damaged or foreign bundle is unsuitable."""
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
        f"recreate it with `make reproduce RUN={run.name}`, or name another bundle",
    )
