"""What a request may have is what the task says of its columns: a task that is added needs nothing here."""

from typing import Any

import pytest

from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.groups import groups
from pipeline.serving.problems import RequestProblem
from pipeline.serving.row_api import RowFormats
from pipeline.tasks.finetuning import FinetuneTask


def tasks() -> dict[str, FinetuneTask]:
    made = {name: construct(compose("show-data", [f"task={name}"]).task) for name in groups()["task"]}
    return {name: task for name, task in made.items() if isinstance(task, FinetuneTask)}


class Served:
    """As much of a served model as its forms ask for."""

    def __init__(self, task: Any) -> None:
        self.task = task


@pytest.mark.parametrize(("name", "task"), tasks().items(), ids=tasks())
def test_the_example_of_every_task_is_a_row_and_an_empty_text_is_none(name: str, task: FinetuneTask) -> None:
    forms = RowFormats(Served(task), max_rows=2, max_characters=100)
    row = dict(task.example_row)
    assert forms.rows(row) == [row]
    assert forms.rows({"rows": [row, row], "model": name}) == [row, row]
    for column in task.input_columns.required:
        for wrong in ("", " ", "a" * 101, 5, None):
            with pytest.raises(RequestProblem) as refused:
                forms.rows({**row, column: wrong})
            assert (refused.value.status, refused.value.field) == (400, column)
    with pytest.raises(RequestProblem) as refused:
        forms.rows({**row, "colour": "red"})
    assert refused.value.field == "colour"
