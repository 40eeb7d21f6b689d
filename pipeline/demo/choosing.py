"""Choose the bundles to show if the user names none: the newest of each task."""

from pathlib import Path

from pipeline.errors import BundleError
from pipeline.runs.find import Kind, newest_bundle
from pipeline.runs.folders import list_runs
from pipeline.runs.record import RunFolder
from pipeline.runs.stored import read_task
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.finetuning import FinetuneTask


def newest_of_each_task(runs_dir: Path) -> list[str]:
    """Return the newest finished bundle of each stage and task that can answer requests, sorted by task.

    Raises:
        BundleError: there are none.
    """
    trained = {(str((run.record.choices or {}).get("task")), run.record.stage) for run in list_runs(runs_dir)}
    newest = [
        newest_bundle(runs_dir, stage=stage, task=task, kind=_can_answer) for task, stage in sorted(trained)
    ]
    if not any(newest):
        raise BundleError(
            f"no finished bundle under {runs_dir} can answer requests",
            "at least one",
            "run `make pretrain`, or `make finetune-TASK`, first",
        )
    return [str(folder) for folder in newest if folder is not None]


def _can_answer(run: RunFolder) -> Kind:
    is_able = isinstance(read_task(run.bundles / "best"), CausalLM | FinetuneTask)
    return Kind(rank=0 if is_able else None, title="it only fills gaps")
