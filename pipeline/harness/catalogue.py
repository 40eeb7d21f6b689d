"""Find tasks of the lm-evaluation-harness: Prelude's, those in the user's folder, and the harness's own."""

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pipeline import report
from pipeline.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

#: The tasks of Prelude: one yaml file each, all with this tag.
FOLDER = Path(__file__).parent / "tasks"
ALL_OF_OURS = "storyworld"


def load_tasks(names: Sequence[str], folder: str | None) -> dict[str, Any]:
    """Load the tasks with these names, groups or tags, including their rows.

    Raises:
        ConfigError: there is no such folder or task.
        DataError: the rows of a task cannot be read.
    """
    from lm_eval.tasks import TaskManager

    quieten()
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(
            f"harness.folder={folder} is not a folder",
            "a folder with a yaml file for each task",
            "check the path",
        )
    folders = [str(FOLDER), *([folder] if folder is not None else [])]
    manager = TaskManager(include_defaults=False, include_path=folders)
    if missing := [name for name in names if name not in manager.all_tasks]:
        report.say(
            "Tasks", f"{', '.join(missing)}: not found here; reading the tasks of lm-eval (half a minute)"
        )
        ours, manager = manager.all_tasks, TaskManager(include_path=folders)
        _check_names(missing, manager, ours)
    try:
        return dict(manager.load(list(names)))
    except Exception as error:  # a task may contain any code, and its rows may come from anywhere
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(
            f"the tasks {', '.join(names)} cannot be loaded ({reason})",
            "a task whose rows are on this machine, or a connection to the Hugging Face hub",
            "name other tasks with TASKS=..., or check the task's yaml",
        ) from error


def quieten() -> None:
    """Let the harness log only errors, and show no progress bars for short tasks."""
    from lm_eval.api import task

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    task.tqdm = partial(tqdm, disable=True)


def _check_names(names: Sequence[str], manager: "TaskManager", ours: Sequence[str]) -> None:
    for name in names:
        if name not in manager.all_tasks:
            close = get_close_matches(name, manager.all_tasks, n=3)
            raise ConfigError(
                f"there is no task {name}",
                f"one of {', '.join(ours)}, or a task of lm-eval",
                f"did you mean {' or '.join(close)}?"
                if close
                else "list those of lm-eval with `lm-eval ls tasks`",
            )
