"""Activation checkpointing changes memory and nothing else."""

import copy

import pytest
import torch

from modules.heads import LMHead
from modules.layers import LayerSpec
from modules.losses import token_loss
from modules.model import Model
from modules.positions import Rotary
from modules.recompute import Recompute
from modules.transformer import Decoder, set_recompute

IDS = torch.arange(24).reshape(2, 12) % 17


def gradients(model: Model) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # of dropout
    nats, n_tokens = token_loss(model.hidden({"input_ids": IDS}), model.head, IDS, torch.arange(24))
    (nats / n_tokens).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_gradients_are_those_without_checkpointing_to_the_last_bit_with_dropout_too(
    recompute: Recompute,
) -> None:
    backbone = Decoder(
        17, n_layers=3, max_seq_len=12, layer=LayerSpec(8, n_heads=2, dropout=0.1), position=Rotary()
    )
    model = Model(backbone, LMHead(backbone.embedding))
    other = copy.deepcopy(model)
    set_recompute(other, recompute)
    wanted, found = gradients(model), gradients(other)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
