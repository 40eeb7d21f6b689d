"""8-bit weights: nearly the original outputs, each row on its own, and a quarter of the bytes."""

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from modules.errors import ArgumentError
from modules.generation import SamplingOptions, generate
from modules.heads import LMHead, TransformedLMHead
from modules.layers import LayerSpec
from modules.model import Model
from modules.peft import LoRA, add_adapter, merge_adapter
from modules.positions import Rotary
from modules.quantization import Int8Linear, quantize
from modules.transformer import Decoder, Encoder

V = 61


def make_model(backbone: type = Decoder, head: type = LMHead, **options: bool) -> Model:
    torch.manual_seed(0)
    layer = LayerSpec(d_model=32, n_heads=4, bias=True)
    body = backbone(V, n_layers=2, max_seq_len=40, layer=layer, position=Rotary())
    model = Model(body, head(body.embedding, **options)).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.3)
    return model


def rounded(weight: Tensor) -> Tensor:
    """The truth: every row of a matrix in steps of 1/127 of its largest value."""
    step = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / step).round() * step


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_layer_is_the_product_with_rounded_weights(with_bias: bool) -> None:
    torch.manual_seed(1)
    layer, x = nn.Linear(48, 24, bias=with_bias), torch.randn(3, 5, 48)
    x[0, 0, 0] = 40  # a large value, as language models have
    bias = layer.bias.detach().double() if with_bias else None
    expected = nn.functional.linear(x.double(), rounded(layer.weight.detach()).double(), bias)
    found = Int8Linear(layer.weight, layer.bias)(x)
    assert found.shape == (3, 5, 24)
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < 5e-4
    assert relative_error(found[0, 0], expected[0, 0]) < 5e-4


def test_the_largest_values_are_not_clipped() -> None:
    """Processors without VNNI add pairs of products in 16 bits."""
    layer = Int8Linear(torch.ones(16, 64), None)
    assert layer(torch.ones(1, 64)).tolist() == [[64.0] * 16]
    assert layer(-torch.ones(1, 64)).tolist() == [[-64.0] * 16]


def test_the_output_of_a_row_does_not_depend_on_other_rows() -> None:
    torch.manual_seed(2)
    layer, x = Int8Linear(torch.randn(40, 96), None), torch.randn(33, 96) * torch.logspace(-3, 3, 33)[:, None]
    together = layer(x)
    for row in range(len(x)):
        assert torch.equal(layer(x[row]), together[row])


def test_zeros_and_nan_stay_what_they_are() -> None:
    layer = Int8Linear(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([3.0, 4.0]))
    assert layer(torch.zeros(1, 2)).tolist() == [[3.0, 4.0]]
    assert layer(torch.tensor([[5.0, 5.0]])).tolist()[0][1] == 4.0
    assert layer(torch.tensor([[float("nan"), 1.0]])).isnan().all()


@pytest.mark.parametrize(
    ("head", "options"), [(LMHead, {}), (LMHead, {"tied": False, "bias": True}), (TransformedLMHead, {})]
)
@pytest.mark.parametrize("backbone", [Decoder, Encoder])
def test_a_model_computes_with_rounded_weights(backbone: type, head: type, options: dict[str, bool]) -> None:
    model, batch = make_model(backbone, head, **options), {"input_ids": torch.randint(3, V, (2, 9))}
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for layer in reference.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(rounded(layer.weight))
        hidden, its_head = reference.hidden(batch), cast(LMHead, reference.head)
        its_head.weight.copy_(rounded(its_head.weight))
        expected = its_head(hidden)
        unrounded = model(batch)
        quantize(model, at_least=1)
        found = model(batch)
    assert relative_error(found, expected) < 1e-3
    assert 1e-3 < relative_error(found, unrounded) < 0.1
    assert not any(isinstance(layer, nn.Linear) for layer in model.modules())


def test_small_matrices_stay_as_they_are() -> None:
    model = make_model()  # 2 layers of 4 x 32 x 32 and 2 x 32 x 128, and a head of 61 x 32
    assert quantize(model) == (0, 13)
    assert quantize(model, at_least=4096) == (4, 13)
    rounded_names = {name for name, each in model.named_modules() if isinstance(each, Int8Linear)}
    assert {name.rpartition(".")[2] for name in rounded_names} == {"up_proj", "down_proj"}
    assert model.head.product is None
    assert quantize(model, at_least=1) == (9, 9)  # the others are rounded already


def test_an_adapter_is_merged_first() -> None:
    model, batch = make_model(), {"input_ids": torch.randint(3, V, (2, 9))}
    add_adapter(model.backbone, LoRA(rank=2))
    for name, weight in model.named_parameters():
        if "lora" in name:
            nn.init.normal_(weight)
    merged = copy.deepcopy(model)
    merge_adapter(merged)
    quantize(merged, at_least=1)
    quantize(model, at_least=1)
    with torch.no_grad():
        assert torch.equal(model(batch), merged(batch))


def test_a_row_generates_the_same_text_alone_and_in_a_batch() -> None:
    model, prompts = make_model(), [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
    quantize(model, at_least=1)
    options = SamplingOptions(temperature=0.0, max_new_tokens=12)
    together = generate(model, prompts, options, eos_id=2, pad_id=0)
    assert together == [generate(model, [each], options, eos_id=2, pad_id=0)[0] for each in prompts]


def test_without_kernels_the_model_is_refused_and_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    before = [type(each) for each in model.modules()]

    def missing(*_: object) -> Tensor:
        raise NotImplementedError("no kernel")

    monkeypatch.setattr("modules.quantization._Int8Matrix.multiply", missing)
    with pytest.raises(ArgumentError, match="no 8-bit kernels"):
        quantize(model, at_least=1)
    assert [type(each) for each in model.modules()] == before


def test_a_model_on_another_device_is_refused() -> None:
    with pytest.raises(ArgumentError, match="not supported on meta"):
        quantize(make_model().to("meta"))
