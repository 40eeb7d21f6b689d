"""All runs of a folder, read one by one: one that is damaged is listed, and is in nobody's way."""

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
        runs: those that can be read.
        damaged: folder of a run that cannot -> why.
    """

    runs: Sequence[RunFacts]
    damaged: Mapping[str, str]

    @property
    def by_task(self) -> dict[str, list[RunFacts]]:
        """Runs that trained a model, by what they trained it for, the best first where that can be said."""
        found: dict[str, list[RunFacts]] = {}
        for run in self.runs:
            if run.stage in TRAINING:
                found.setdefault(run.title, []).append(run)
        return {title: sorted(runs, key=_rank) for title, runs in sorted(found.items())}

    @property
    def others(self) -> dict[str, int]:
        """How many runs there are of stages that train nothing."""
        stages = [run.stage for run in self.runs if run.stage not in TRAINING]
        return {stage: stages.count(stage) for stage in sorted(set(stages))}


def read_store(runs_dir: Path) -> Store:
    """Read all runs under a folder."""
    runs, damaged = [], {}
    for folder in sorted(path for path in runs_dir.glob("*") if path.is_dir()):
        try:
            record = RunRecord(**read_json(folder / "run.json"))
            runs.append(read_facts(RunFolder(folder, record)))
        except Exception as error:  # whatever is wrong with one run, the others are shown
            damaged[folder.name] = f"{type(error).__name__}: {error}".partition("\n")[0]
    runs.sort(key=lambda run: run.created, reverse=True)
    return Store(runs=runs, damaged=damaged)


def deciding(run: RunFacts) -> tuple[str, Score] | None:
    """The name and value of the metric that decides, or else the validation loss."""
    measured = run.measurement
    name = f"{measured.prefix}/{measured.metric}" if measured and measured.metric else "val/loss"
    score = run.metrics.get(name)
    return None if score is None else (name, score)


def _rank(run: RunFacts) -> tuple[bool, float]:
    """Runs without a number come last."""
    found = deciding(run)
    if found is None:
        return True, 0.0
    measured = run.measurement
    higher = measured is not None and measured.metric is not None and measured.higher_is_better
    return False, -found[1].value if higher else found[1].value
