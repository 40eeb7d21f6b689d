"""Tokens and work of training: padding counts nowhere, products with weights as torch counts them."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from datamodules.collate import RowBatch, collate_causal, collate_denoise
from datamodules.corruption import TokenTable
from datamodules.tokenizer import Bytes
from modules.flops import TrainingFlops, attention_flops, count_tokens
from modules.freezing import freeze
from modules.heads import LMHead, SpanHead
from modules.layers import LayerSpec
from modules.model import Model
from modules.positions import Learned, Rotary
from modules.transformer import Decoder, Encoder, EncoderDecoder, Transformer
from pipeline.tasks.summarize import Summarisation

V, D, S, T, LABELLED = 60, 32, 10, 7, 5
BYTES = Bytes().train([])


def make(kind: type[Transformer], **options: object) -> Model:
    # The gradient of our RMSNorm is a product of matrices too.
    layer = LayerSpec(D, n_heads=2, n_kv_heads=1, activation="swiglu", norm="layer", qk_norm=False)
    position = Learned(D, max_seq_len=16)
    backbone = kind(V, n_layers=3, max_seq_len=16, layer=layer, position=position, **options)  # type: ignore[call-arg]
    return Model(backbone, LMHead(backbone.output_embedding))


def batch_of(model: Model) -> dict[str, Tensor]:
    batch = {"input_ids": torch.arange(2 * S).reshape(2, S), "label_index": torch.arange(LABELLED)}
    if isinstance(model.backbone, EncoderDecoder):
        batch["decoder_input_ids"] = torch.arange(2 * T).reshape(2, T)
    return batch


def counted_by_torch(model: Model, batch: dict[str, Tensor]) -> float:
    """Products of matrices, forward and backward; those of attention are products of batches."""
    with FlopCounterMode(display=False) as counter:
        hidden = model.hidden(batch).flatten(0, 1)[batch["label_index"]]
        model.head(hidden).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    return sum(n for kind, n in counts.items() if str(kind) in ("aten.mm", "aten.addmm"))


@pytest.mark.parametrize(
    "model",
    [
        make(Decoder),
        make(Encoder),
        make(EncoderDecoder),
        make(EncoderDecoder, n_encoder_layers=1, tied_embeddings=False),
    ],
)
def test_the_work_of_a_step_is_what_torch_counts(model: Model) -> None:
    batch = batch_of(model)
    assert TrainingFlops(model).of(count_tokens(batch)) == counted_by_torch(model, batch)


@pytest.mark.parametrize("kind", [Decoder, EncoderDecoder])
def test_what_is_frozen_costs_less_and_nearly_what_torch_counts(kind: type[Transformer]) -> None:
    model = make(kind)
    batch = batch_of(model)
    flops = TrainingFlops(model)
    whole = flops.of(count_tokens(batch))
    previous = whole
    for depth in (1, 2, 3):
        freeze(model, depth)
        now = flops.of(count_tokens(batch))
        assert now < previous
        # In the lowest layer that is trained, what went into the first products needs no gradient.
        assert 1 <= now / counted_by_torch(model, batch) < 1.1
        previous = now
    freeze(model, 0)
    assert flops.of(count_tokens(batch)) == whole


def test_with_a_head_alone_the_backbone_costs_its_forward_pass() -> None:
    backbone = make(Encoder).backbone
    model = Model(backbone, SpanHead(D))
    for weight in backbone.parameters():
        weight.requires_grad_(False)
    matrices = sum(weight.numel() for weight in backbone.stack.parameters() if weight.ndim == 2)
    assert TrainingFlops(model).of({"read": 10}) == 10 * (2 * matrices + 6 * D * 2)


def test_padding_of_fine_tuning_is_no_token_on_either_side() -> None:
    backbone = EncoderDecoder(
        BYTES.vocab_size, n_layers=1, max_seq_len=32, layer=LayerSpec(D, n_heads=2), position=Rotary()
    )
    task = Summarisation()
    rows = [{"text": "one longer text", "summary": "one"}, {"text": "two", "summary": "a longer two"}]
    features = [feature for row in rows for feature in task.features(row, BYTES, backbone)]
    batch = task.collate(features)
    assert "attention_mask" in batch
    n_tokens = count_tokens(batch)
    for tokens, name in (("read", "input_ids"), ("decoded", "decoder_input_ids"), ("labelled", "labels")):
        assert n_tokens[tokens] == sum(len(feature[name]) for feature in features)  # type: ignore[index]
        assert n_tokens[tokens] < batch[name].numel()  # type: ignore[index]


def test_padding_of_packed_rows_is_no_token_on_either_side() -> None:
    rows = RowBatch(np.full((2, 12), 50), np.array([[1] * 7 + [2] * 5, [1] * 9 + [0] * 3]), np.arange(2))
    assert count_tokens(collate_causal(rows))["read"] == 11 + 9
    batch = collate_denoise(rows, tokens=TokenTable.of(BYTES), seed=0, rate=0.5)
    n_tokens = count_tokens(batch)
    assert n_tokens["decoded"] == n_tokens["labelled"] == (batch["labels"] >= 0).sum()
    assert n_tokens["read"] == batch["segment_ids"].count_nonzero() < batch["input_ids"].numel()


def test_a_batch_without_padding_is_counted_without_looking() -> None:
    assert count_tokens({"input_ids": torch.ones(2, 3)}) == {"read": 6}


@pytest.mark.parametrize("kind", [Decoder, EncoderDecoder])
def test_the_work_of_attention_is_what_torch_counts(kind: type[Transformer]) -> None:
    model = make(kind)
    batch = batch_of(model)
    products = ("aten.bmm", "aten._scaled_dot_product_flash_attention_for_cpu")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.hidden(batch).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    counted = sum(n for product, n in counts.items() if str(product) in products)
    assert attention_flops(model, {"read": S, "decoded": T}) * len(batch["input_ids"]) == counted
