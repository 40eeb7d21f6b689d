"""The page on fine-tuning gives each task as it is."""

import re
from dataclasses import fields

import pytest

from pipeline.config.compose import compose
from pipeline.config.groups import groups
from pipeline.tasks.finetuning import FinetuneTask
from tests.docs.documents import TEXTS, finetuning_tasks


def task_tables() -> dict[tuple[str, str], str]:
    """(Header of a column, task) -> what the tables of the page on fine-tuning have there."""
    cells: dict[tuple[str, str], str] = {}
    header: list[str] = []
    task = ""
    for line in TEXTS["docs/finetuning.md"].splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        header = row if row and not header else header if row else []
        task = row[0].strip("`") or task if row else ""
        for name, cell in zip(header[1:], row[1:], strict=False):
            for one in task.split(", "):
                cells[name, one] = f"{cells.get((name, one), '')} {cell}".strip()
    return cells


def code(cell: str) -> list[str]:
    """The words in backquotes of a cell."""
    return re.findall(r"`([\w.]+)`", cell)


def options_of(task: FinetuneTask) -> set[str]:
    """The fields that a user sets: of the others the docstring says that they are learned."""
    pages = "\n".join(kind.__doc__ or "" for kind in type(task).__mro__)
    learned = re.findall(r"^ +(\w+): learned:", pages, re.MULTILINE)
    return {item.name for item in fields(task)} - set(learned)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", finetuning_tasks())
def test_the_page_on_fine_tuning_gives_each_task_as_it_is(name: str) -> None:
    task, cells = finetuning_tasks()[name], task_tables()
    assert tuple(code(cells["input columns", name])[: len(task.inputs)]) == task.inputs
    assert task.targets == () or code(cells["target columns", name])[0] in task.targets
    assert set(task.optional) <= set(code(cells["optional columns", name]))
    assert f"**`{task.metric}`**" in cells["metric", name]
    assert set(code(cells["option", name])) == options_of(task)
    for backbone in ("Decoder", "Encoder", "EncoderDecoder"):
        (answer,) = (cells[head, one] for head, one in cells if one == name and head.split()[0] == backbone)
        assert answer.startswith("yes") == (backbone in {kind.__name__ for kind in task.backbones})
    nothing = compose("finetune", [f"task={name}", "init_from=none"]).model.backbone._target_
    assert cells["with `INIT=none`", name] == nothing.rpartition(".")[2]


def test_the_page_on_fine_tuning_gives_every_default_as_it_is() -> None:
    cells = task_tables()
    for name, task in finetuning_tasks().items():
        defaults = [
            part.strip() for part in re.split(r"[ ,]+", cells["default", name]) if part[0].isdecimal()
        ]
        numbers = [
            value
            for option in code(cells["option", name])
            if isinstance(value := getattr(task, option), int | float) and not isinstance(value, bool)
        ]
        assert [float(default) for default in defaults] == numbers, name


def test_every_corpus_of_a_row_of_the_page_on_fine_tuning_is_there() -> None:
    cells = task_tables()
    corpora = groups()["data"]
    for kind in ("story world (the default)", "Hub", "mirror only"):
        listed = {name: re.findall(r"\w+", cells[kind, name]) for name in finetuning_tasks()}
        assert any(listed.values()), kind
        assert [name for names in listed.values() for name in names if name not in corpora] == []
