"""Find the runs that the user names: by name, MLflow id, folder, `last:3`, `last:3:classify`, `best:qa`."""

import difflib
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import report
from pipeline.errors import RunError
from pipeline.evaluation.rows import EVALUATION
from pipeline.runs.bundle import is_finished
from pipeline.runs.folders import RunFolder, list_runs
from pipeline.runs.stored import read_part, task_class
from pipeline.tasks.finetuning import FinetuneTask
from pipeline.tracking.spool import Progress

#: The most runs that a page or a terminal can show side by side.
MOST = 12
#: The fewest characters of an id; fewer could just as well be a mistyped name.
MIN_ID_CHARS = 4
N_CANDIDATES = 5
FORMS = "a run's name, MLflow id or folder, last:N, last:N:WORD or best:WORD (WORD: a stage, task or corpus)"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The metrics that may decide which run is best; the first one that all runs have does."""

    metrics: tuple[str, ...]
    higher_is_better: bool


def select_runs(specs: Sequence[str], runs_dir: Path) -> list[RunFolder]:
    """Return the runs that `specs` name, each once, in this order.

    Raises:
        RunError: if a name is unknown or ambiguous, or there are fewer than two runs, or too many.
    """
    known = list_runs(runs_dir)
    chosen: dict[Path, RunFolder] = {}
    for spec in specs:
        for run in _find(spec, known, runs_dir):
            chosen.setdefault(run.path.resolve(), run)
    if not 2 <= len(chosen) <= MOST:
        names = ", ".join(run.name for run in chosen.values()) or "none"
        raise RunError(
            f"there {'is 1 run' if len(chosen) == 1 else f'are {len(chosen)} runs'} to compare ({names})",
            f"2 to {MOST} different runs",
            f'name them: RUNS="..."; {_known(known)}',
        )
    return list(chosen.values())


def _find(spec: str, known: Sequence[RunFolder], runs_dir: Path) -> list[RunFolder]:
    word, colon, rest = spec.partition(":")
    special: dict[str, Callable[..., list[RunFolder]]] = {"last": _last, "best": _best}
    if colon and word in special:
        return special[word](spec, rest.split(":"), known)
    return [_one(spec, known, runs_dir)]


def _one(spec: str, known: Sequence[RunFolder], runs_dir: Path) -> RunFolder:
    """Find a run by name, folder or id, in this order; a `/` in a name became `-` in its folder."""
    name = unicodedata.normalize("NFC", spec).strip()
    for candidate in (name, name.replace("/", "-")):
        for run in known:
            if unicodedata.normalize("NFC", run.name) == candidate:
                return run
    if (run_at := _at(Path(spec))) is not None:
        return run_at
    found = [run for run in known if len(name) >= MIN_ID_CHARS and _has_id(run, name)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{run.name} ({_ids(run)[0][:12]})" for run in found[:N_CANDIDATES])
        raise RunError(
            f"'{spec}' is a prefix of the ids of {len(found)} runs", "one run", f"name one of {names}"
        )
    close = difflib.get_close_matches(name, [run.name for run in known], n=3, cutoff=0.5)
    remedy = f"did you mean {' or '.join(close)}?" if close else _known(known)
    raise RunError(f"there is no run '{spec}' in {runs_dir}", FORMS, remedy)


def _at(path: Path) -> RunFolder | None:
    """Return the run at a path, which is its folder or the folder of one of its bundles."""
    for folder in [path, *path.parents][:3]:
        if (folder / "run.json").is_file():
            inside = {run.path.resolve(): run for run in list_runs(folder.resolve().parent)}
            return inside.get(folder.resolve())
    return None


def _has_id(run: RunFolder, prefix: str) -> bool:
    return any(run_id.startswith(prefix) for run_id in _ids(run))


def _ids(run: RunFolder) -> list[str]:
    """Return the ids of a run: MLflow's, and the local one."""
    folder = run.path / "tracking"
    local = folder / "local_id"
    ids = [
        Progress.load(folder).run_id,
        local.read_text(encoding="utf-8", errors="replace") if local.exists() else None,
    ]
    return [run_id for run_id in ids if run_id]


def _last(spec: str, words: Sequence[str], known: Sequence[RunFolder]) -> list[RunFolder]:
    """Return the newest runs with results that match all words; without words, of one task if possible."""
    number, *words = words
    if not number.isdigit() or int(number) < 1:
        raise RunError(f"'{spec}' has no number", "last:N or last:N:WORD", "use for example last:3")
    fitting = [run for run in known if _fits(run, words) and has_results(run)]
    if len(fitting) < int(number):
        raise _too_few(spec, len(fitting), words, known)
    chosen = fitting if words else _of_one_task(fitting, int(number))
    return chosen[: int(number)]


def _of_one_task(runs: Sequence[RunFolder], number: int) -> list[RunFolder]:
    """Return the runs of the newest task that has enough of them; all runs if no task has."""
    for task in dict.fromkeys(map(_task, runs)):
        same = [run for run in runs if _task(run) == task]
        if len(same) >= number:
            if newer := runs[: runs.index(same[0])]:
                report.say("Note", f"skipped {_names_and_tasks(newer)}, to compare runs of one task")
            return same
    return list(runs)


def _names_and_tasks(runs: Sequence[RunFolder]) -> str:
    return ", ".join(f"{run.name} ({_task(run)})" for run in runs)


def _best(spec: str, words: Sequence[str], known: Sequence[RunFolder]) -> list[RunFolder]:
    """Return the best training run by its task's metric; candidates must have the same task and corpus."""
    trained = [run for run in known if _fits(run, words) and is_finished(run.bundles / "best")]
    if not trained:
        raise _too_few(spec, 0, words, known)
    for what in ("task", "data"):
        kinds = sorted({str((run.record.choices or {}).get(what)) for run in trained})
        if len(kinds) > 1:
            raise RunError(
                f"'{spec}' matches runs with different {what}: {', '.join(kinds)}",
                f"runs of the same {what}, whose metrics can be compared",
                f"name the {what}, for example {spec}:{kinds[0]}",
            )
    goal = goal_of(trained[0])
    found = [(_values(run), run) for run in trained]
    measured = [(values, run) for values, run in found if any(name in values for name in goal.metrics)]
    if not measured:
        raise _too_few(spec, 0, words, known)
    sign = 1 if goal.higher_is_better else -1
    # If some runs have no test metrics, all are ranked by validation metrics.
    metric = next((m for m in goal.metrics if all(m in values for values, _ in measured)), goal.metrics[0])
    return [max(measured, key=lambda pair: sign * pair[0].get(metric, -sign * math.inf))[1]]


def goal_of(run: RunFolder) -> Goal:
    """Return the metrics that may decide between runs of this run's task."""
    task = task_class(run.bundles / "best")
    if issubclass(task, FinetuneTask):
        return Goal(
            metrics=(f"test/{task.metric}", f"val/{task.metric}"), higher_is_better=task.higher_is_better
        )
    return Goal(metrics=("val/loss",), higher_is_better=False)


def has_results(run: RunFolder) -> bool:
    """Return whether a run has metrics of a model."""
    return (run.path / EVALUATION).is_file() or (run.bundles / "best" / "metrics.json").is_file()


def _values(run: RunFolder) -> dict[str, float]:
    file = run.bundles / "best" / "metrics.json"
    values = read_part(file.parent, file.name)
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _fits(run: RunFolder, words: Sequence[str]) -> bool:
    return set(words) <= {run.record.stage, _task(run), (run.record.choices or {}).get("data")}


def _task(run: RunFolder) -> str | None:
    return (run.record.choices or {}).get("task")


def _too_few(spec: str, n_found: int, words: Sequence[str], known: Sequence[RunFolder]) -> RunError:
    what = f" of {' '.join(words)}" if words else ""
    return RunError(
        f"'{spec}' asks for more runs{what} than there are: {n_found} with results", FORMS, _known(known)
    )


def _known(known: Sequence[RunFolder]) -> str:
    """Return a hint that names the newest runs."""
    names = [run.name for run in known if has_results(run)][:N_CANDIDATES]
    return f"the newest runs are {', '.join(names)}" if names else "run `make pretrain` twice first"
