"""Rows of the tasks in `tasks/`, in the format of the harness: a data set with one split."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from datamodules.storyworld import probes

if TYPE_CHECKING:
    from datasets import Dataset

Rows = Callable[..., Mapping[str, "Dataset"]]


def _as_split(make: Callable[[int, int], list[dict[str, Any]]]) -> Rows:
    """Return a function for the yaml of a task; it receives `dataset_kwargs` and `metadata`."""

    def rows(*, n_rows: int, seed: int = 0, **_metadata: object) -> Mapping[str, "Dataset"]:
        from datasets import Dataset

        return {"test": Dataset.from_list(make(n_rows, seed))}

    return rows


pronouns, articles = _as_split(probes.pronouns), _as_split(probes.articles)
endings, stories = _as_split(probes.endings), _as_split(probes.stories)
