"""Small models for the tasks that understand text, and a training of a few steps."""

from collections.abc import Sequence

import torch

from datamodules.tokenizer import ByteLevelBPE, Bytes, Tokenizer
from modules.heads import PooledClassifier, SpanHead
from modules.init import initialize
from modules.layers import LayerSpec
from modules.model import Model
from modules.positions import Rotary
from modules.transformer import Transformer
from pipeline.tasks.finetuning import FinetuneTask, Row

BYTES = Bytes().train([])
HEADS = {"PooledClassifier": PooledClassifier, "SpanHead": SpanHead}


def words(texts: Sequence[str]) -> Tokenizer:
    """A tokenizer whose tokens are pieces of words."""
    return ByteLevelBPE(vocab_size=320).train([text for text in texts for _ in range(5)])


def backbone(kind: type[Transformer], *, max_seq_len: int = 64, d_model: int = 32) -> Transformer:
    layer = LayerSpec(d_model, n_heads=2)
    return kind(400, n_layers=2, max_seq_len=max_seq_len, layer=layer, position=Rotary())


def model_for(
    task: FinetuneTask, kind: type[Transformer], *, max_seq_len: int = 64, d_model: int = 32
) -> Model:
    torch.manual_seed(0)
    body = backbone(kind, max_seq_len=max_seq_len, d_model=d_model)
    options = task.head(body)
    model = Model(body, HEADS[options.pop("_target_").rpartition(".")[2]](**options))
    initialize(model, "default")
    return model


def overfit(
    task: FinetuneTask,
    model: Model,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    *,
    n_steps: int,
    lr: float = 3e-3,
) -> float:
    """Train on one batch of all rows; gives the last mean loss."""
    features = [feature for row in rows for feature in task.features(row, tokenizer, model.backbone)]
    batch, objective = task.collate(features), task.objective()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(n_steps):
        nats, n = objective.loss(model, batch)
        optimizer.zero_grad()
        (nats / n).backward()
        optimizer.step()
    return nats.item() / n
