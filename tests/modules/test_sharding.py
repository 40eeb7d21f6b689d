"""Sharded weights: who computes which matrix, who has which rows, and models that keep their shapes only."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from modules.heads import LMHead
from modules.layers import LayerSpec
from modules.model import Model
from modules.positions import Rotary
from modules.sharding import gathered, local, rows_by_process, share_out, whole, without_memory
from modules.transformer import Decoder


@given(st.lists(st.floats(0, 100), max_size=20), st.integers(1, 5))
def test_shares_hold_each_index_once_and_none_is_a_whole_cost_above_another(
    costs: list[float], n: int
) -> None:
    shares = share_out(costs, n)
    assert sorted(index for share in shares for index in share) == list(range(len(costs)))
    sums = [sum(costs[index] for index in share) for share in shares]
    assert max(sums) - min(sums) <= max(costs, default=0) + 1e-9


@pytest.mark.parametrize("n_rows", [1, 2, 5, 8, 9])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_rows_are_counted_as_torch_cuts_them(n_rows: int, n: int) -> None:
    chunks = [len(chunk) for chunk in torch.arange(n_rows).chunk(n)]
    assert rows_by_process(n_rows, n) == chunks + [0] * (n - len(chunks))


def test_what_is_not_sharded_is_left_as_it_is() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    assert local(weight) is weight
    assert whole(weight) is weight
    model = nn.Linear(2, 3)
    before = model.weight
    with gathered(model):
        assert model.weight is before


def test_a_model_without_memory_takes_the_weights_of_its_original_and_computes_the_same() -> None:
    layer = LayerSpec(16, n_heads=2)
    backbone = Decoder(11, n_layers=1, max_seq_len=8, layer=layer, position=Rotary())
    model = Model(backbone, LMHead(backbone.embedding)).eval()
    model.backbone.embedding.weight.requires_grad_(False)
    empty = without_memory(model)
    assert {weight.device.type for weight in empty.parameters()} == {"meta"}
    assert not empty.backbone.embedding.weight.requires_grad
    empty.load_state_dict(model.state_dict(), assign=True)
    batch = {"input_ids": torch.arange(8).view(1, 8)}
    assert torch.equal(empty(batch), model(batch))
