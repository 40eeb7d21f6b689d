"""LoRA: equal to the `peft` library in values and gradients, merged without loss, all else frozen."""

import copy
import math
from typing import Any

import peft
import pytest
import torch
from torch import nn

from modules.peft import LoRA, LoRALinear, add_adapter, merge_adapter

OPTIONS = LoRA(rank=3, alpha=7.0, targets=["up", "down"])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    parts = {
        "up": nn.Linear(6, 8),
        "act": nn.Tanh(),
        "down": nn.Linear(8, 5, bias=False),
        "out": nn.Linear(5, 2),
    }
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model.double()


def adapted() -> nn.Sequential:
    """With an adapter that has learnt something."""
    model = network()
    add_adapter(model, OPTIONS)
    for name, weight in model.named_parameters():
        if "lora" in name:
            nn.init.normal_(weight)
    return model


def test_outputs_and_gradients_are_those_of_peft_on_the_same_weights() -> None:
    ours, x = adapted(), torch.randn(4, 3, 6, dtype=torch.float64)
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["up", "down"], lora_dropout=0.0)
    theirs: Any = peft.get_peft_model(network(), config)  # type: ignore[arg-type]
    for name in ("up", "down"):
        layer, mine = theirs.base_model.model.get_submodule(name), ours.get_submodule(name)
        layer.lora_A["default"].weight.data = mine.lora_A.detach().clone()
        layer.lora_B["default"].weight.data = mine.lora_B.detach().clone()
    out, expected = ours(x), theirs(x)
    assert torch.allclose(out, expected, rtol=0, atol=1e-12)
    out.square().sum().backward()
    expected.square().sum().backward()
    for name in ("up", "down"):
        layer, mine = theirs.base_model.model.get_submodule(name), ours.get_submodule(name)
        for which in ("lora_A", "lora_B"):
            gradient = getattr(layer, which)["default"].weight.grad
            assert torch.allclose(getattr(mine, which).grad, gradient, rtol=0, atol=1e-12)
        assert mine.weight.grad is None


def test_a_new_adapter_changes_nothing_and_trains_nothing_else() -> None:
    model, x = network(), torch.randn(3, 6, dtype=torch.float64)
    before = model(x)
    assert add_adapter(model, OPTIONS) == ["up", "down"]
    assert torch.equal(model(x), before)
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"up.lora_A": 18, "up.lora_B": 24, "down.lora_A": 24, "down.lora_B": 15}


def test_a_merged_model_is_a_plain_one_with_the_same_outputs() -> None:
    model, x = adapted(), torch.randn(3, 6, dtype=torch.float64)
    merged = copy.deepcopy(model)
    merge_adapter(merged)
    assert not any(isinstance(each, LoRALinear) for each in merged.modules())
    assert merged.state_dict().keys() == network().state_dict().keys()
    assert torch.allclose(merged(x), model(x), rtol=0, atol=1e-12)
    assert all(weight.requires_grad for weight in merged.parameters())


def test_dropout_is_for_training_and_for_the_adapter_alone() -> None:
    model = network()
    add_adapter(model, LoRA(rank=2, dropout=0.5, targets=["up"]))
    nn.init.normal_(model.get_submodule("up").lora_B)  # type: ignore[arg-type]
    x = torch.randn(2, 6, dtype=torch.float64)
    model.train()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 0}, "peft.rank is 0; expected at least 1"),
        ({"dropout": 1.0}, "peft.dropout is 1.0; expected from 0"),
        ({"alpha": 0.0}, "peft.alpha is 0.0"),
        ({"alpha": math.nan}, "peft.alpha is nan"),
        ({"alpha": math.inf}, "peft.alpha is inf"),
        ({"targets": []}, "peft.targets is empty"),
    ],
)
def test_a_value_outside_its_range_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LoRA(**options)


def test_a_target_that_names_no_layer_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        ValueError, match="no linear layer is named query; expected names among up, down, out"
    ):
        LoRA(targets=["up", "query"]).layers(network())


def test_a_rank_above_that_of_a_matrix_is_refused() -> None:
    least = min(network().up.weight.shape)
    assert LoRA(rank=least, targets=["up"]).layers(network())
    with pytest.raises(
        ValueError, match=f"rank is {least + 1}; expected at most {least}, the rank of the matrix up"
    ):
        LoRA(rank=least + 1, targets=["up"]).layers(network())
