"""All runs of a folder, read one by one; damaged runs are listed separately."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.compare.facts import RunFacts, read_facts
from pipeline.files import read_json
from pipeline.runs.record import RunFolder, RunRecord
from pipeline.tasks.finetuning import Score

#: Stages whose runs train a model.
TRAINING = ("pretrain", "finetune")


@dataclass(frozen=True, kw_only=True)
class Store:
    """The runs of a folder, newest first.

    Args:
        runs: the readable runs.
        damaged: the reason why a run cannot be read, by its folder.
    """

    runs: Sequence[RunFacts]
    damaged: Mapping[str, str]

    @property
    def by_task(self) -> dict[str, list[RunFacts]]:
        """Runs that trained a model, by their title, with the best first."""
        by_title: dict[str, list[RunFacts]] = {}
        for run in self.runs:
            if run.stage in TRAINING:
                by_title.setdefault(run.title, []).append(run)
        return {title: sorted(runs, key=_rank) for title, runs in sorted(by_title.items())}

    @property
    def others(self) -> dict[str, int]:
        """The number of runs of each other stage."""
        stages = [run.stage for run in self.runs if run.stage not in TRAINING]
        return {stage: stages.count(stage) for stage in sorted(set(stages))}


def read_store(runs_dir: Path) -> Store:
    """Read all runs under a folder."""
    runs, damaged = [], {}
    for folder in sorted(path for path in runs_dir.glob("*") if path.is_dir()):
        try:
            record = RunRecord(**read_json(folder / "run.json"))
            runs.append(read_facts(RunFolder(folder, record)))
        except Exception as error:  # one unreadable run must not hide the others
            damaged[folder.name] = f"{type(error).__name__}: {error}".partition("\n")[0]
    runs.sort(key=lambda run: run.created, reverse=True)
    return Store(runs=runs, damaged=damaged)


def deciding(run: RunFacts) -> tuple[str, Score] | None:
    """Return the name and value of the metric that selects the best run, or else of the validation loss."""
    measured = run.measurement
    name = f"{measured.prefix}/{measured.metric}" if measured and measured.metric else "val/loss"
    score = run.metrics.get(name)
    return None if score is None else (name, score)


def _rank(run: RunFacts) -> tuple[bool, float]:
    """Return a sort key by the deciding metric; runs without one come last."""
    best = deciding(run)
    if best is None:
        return True, 0.0
    measured = run.measurement
    higher = measured is not None and measured.metric is not None and measured.higher_is_better
    return False, -best[1].value if higher else best[1].value
