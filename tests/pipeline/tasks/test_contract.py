"""What every fine-tuning task keeps, on every architecture that it names: parametrised over configs/task."""

import random

import numpy as np
import pytest
import torch

from datamodules.errors import DataError
from datamodules.source import Source
from datamodules.tokenizer import Bytes, Tokenizer
from modules.layers import LayerSpec
from modules.model import Model
from modules.positions import Rotary
from modules.transformer import Transformer
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.groups import groups
from pipeline.config.model import build_head
from pipeline.config.tasks import to_node
from pipeline.tasks.finetuning import FinetuneTask, Row, SplitRows

LIMIT = 64
OPTIONS = {
    "translate": ("max_target_tokens=8",),
    "summarize": ("max_target_tokens=8",),
    "chat": ("max_reply_tokens=8",),
}


def named_task(name: str) -> FinetuneTask | None:
    config = compose("show-data", [f"task={name}", *(f"task.{option}" for option in OPTIONS.get(name, ()))])
    task = construct(config.task)
    return task if isinstance(task, FinetuneTask) else None


TASKS = {name: task for name in groups()["task"] if (task := named_task(name)) is not None}
CASES = [(name, kind) for name, task in TASKS.items() for kind in task.backbones]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Bytes().train([])


def story_rows(name: str) -> list[Row]:
    config = compose("finetune", [f"task={name}", "data.n_train_rows=6", "data.n_validation_rows=1"])
    task = TASKS[name]
    return list(construct(config.data, Source).load(task.columns).train)


def small(kind: type[Transformer], tokenizer: Tokenizer, task: FinetuneTask) -> Model:
    torch.manual_seed(0)
    layer = LayerSpec(16, n_heads=2)
    backbone = kind(tokenizer.vocab_size, n_layers=1, max_seq_len=LIMIT, layer=layer, position=Rotary())  # type: ignore[call-arg]
    return Model(backbone, build_head(task.head(backbone), backbone))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_no_example_is_longer_than_the_backbone_reads_and_one_step_lowers_the_loss_of_its_batch(
    name: str, kind: type[Transformer], tokenizer: Tokenizer
) -> None:
    rows = story_rows(name)
    task = TASKS[name].fit(rows)
    task.check(rows, "train")
    model = small(kind, tokenizer, task)
    features = [feature for row in rows for feature in task.features(row, tokenizer, model.backbone)]
    assert max(len(feature["input_ids"]) for feature in features) <= LIMIT
    batch, objective = task.collate(features), task.objective()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(1)
    before, n = objective.loss(model.eval(), batch)
    (before / n).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert objective.loss(model, batch)[0] < before


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_rows_are_answered_in_their_order_whatever_the_batches(
    name: str, kind: type[Transformer], tokenizer: Tokenizer
) -> None:
    rows = story_rows(name)
    task = TASKS[name].fit(rows)
    model = small(kind, tokenizer, task)
    together = task.predict(model, tokenizer, rows, batch_size=4)
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    shuffled = task.predict(model, tokenizer, [rows[i] for i in order], batch_size=2)
    assert [answer.text for answer in shuffled] == [together[i].text for i in order]
    assert all(answer.details.keys().isdisjoint(("text", "confidence")) for answer in together)  # one record
    scores = task.score(together, rows)
    assert np.isfinite(scores[task.metric].value)
    assert len(task.row_scores(together, rows)) == len(rows)
    assert task.baselines(rows, rows).keys() == task.baseline_titles.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_fitted_task_is_built_again_from_its_node(name: str) -> None:
    task = TASKS[name].fit(story_rows(name))
    assert construct(to_node(task)) == task


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_row_that_is_refused_has_the_number_of_its_file(name: str) -> None:
    rows = story_rows(name)[:3]
    task = TASKS[name].fit(rows)
    bad = {**rows[2], task.inputs[0]: None}
    with pytest.raises(DataError, match="row 17"):
        task.check(SplitRows([*rows[:2], bad], [4, 9, 17]), "train")
