"""Small models that write, and a training of a second for them."""

from collections.abc import Sequence

import torch

from datamodules.tokenizer import Bytes
from modules.heads import LMHead
from modules.init import initialize
from modules.layers import LayerSpec
from modules.model import Model
from modules.positions import Learned
from modules.transformer import Decoder, EncoderDecoder
from pipeline.tasks.finetuning import Feature, FinetuneTask, Row

TOKENIZER = Bytes().train([])
LIMIT = 64
WRITERS = {"encoder_decoder": EncoderDecoder, "decoder": Decoder}


def writer(kind: type[EncoderDecoder] | type[Decoder], *, limit: int = LIMIT) -> Model:
    """A model with first weights, which can read no more than `limit` tokens."""
    torch.manual_seed(0)
    backbone = kind(
        TOKENIZER.vocab_size,
        n_layers=2,
        max_seq_len=limit,
        layer=LayerSpec(32, n_heads=2, norm="rms", qk_norm=True),
        position=Learned(32, max_seq_len=limit),
    )
    model = Model(backbone, LMHead(backbone.embedding, softcap=15.0))
    initialize(model, "default")
    return model


def overfit(task: FinetuneTask, model: Model, rows: Sequence[Row], *, steps: int = 80) -> float:
    """Train on all rows as one batch until they are known by heart; the last loss of a token in nats."""
    features = [feature for row in rows for feature in task.features(row, TOKENIZER, model.backbone)]
    batch = task.collate(features)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    objective = task.objective()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        nats, n_tokens = objective.loss(model, batch)
        optimizer.zero_grad()
        (nats / n_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return nats.item() / n_tokens


def labelled(feature: Feature) -> str:
    """The labelled tokens as text, special ones included."""
    return TOKENIZER.decode(feature["labels"][feature["labels"] != -100], keep_special=True)


def read(feature: Feature) -> str:
    """The input tokens as text, special ones included."""
    return TOKENIZER.decode(feature["input_ids"], keep_special=True)
