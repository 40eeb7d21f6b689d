import pytest
import torch
import torch.nn.functional as F

from modules.layers import ACTIVATIONS, FeedForward, LayerSpec
from modules.masks import Mask
from modules.norms import RMSNorm


def test_the_feed_forward_networks_are_their_formulas():
    x = torch.randn(2, 3, 16)
    for activation, bend in (("relu", F.relu), ("gelu", F.gelu), ("relu2", lambda up: F.relu(up) ** 2)):
        ffn = FeedForward(16, d_ff=24, activation=activation, bias=True)
        up = x @ ffn.up_proj.weight.T + ffn.up_proj.bias
        torch.testing.assert_close(ffn(x), bend(up) @ ffn.down_proj.weight.T + ffn.down_proj.bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_gradient_of_the_squared_relu_is_that_of_autograd(dtype):
    x = (torch.randn(300, 70) * torch.logspace(-6, 3, 70)).to(dtype).requires_grad_()
    g = torch.randn(300, 70).to(dtype)
    (ours,) = torch.autograd.grad(ACTIVATIONS["relu2"](x), x, g)
    (theirs,) = torch.autograd.grad(F.relu(x).square(), x, g)
    torch.testing.assert_close(ours, theirs, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_the_squared_relu_and_the_product_after_it_keep_one_tensor_of_the_inner_width():
    ffn, kept = FeedForward(16, d_ff=64, activation="relu2"), set()

    def keep(tensor):
        if tensor.shape[-1] == 64 and tensor.numel() == 6 * 64:
            kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = ffn(torch.randn(2, 3, 16))
    assert len(kept) == 1
    out.sum().backward()


def test_swiglu_is_a_gated_product():
    x, ffn = torch.randn(2, 3, 16), FeedForward(16, d_ff=24, activation="swiglu")
    inner = F.silu(x @ ffn.gate_proj.weight.T) * (x @ ffn.up_proj.weight.T)
    torch.testing.assert_close(ffn(x), inner @ ffn.down_proj.weight.T)


def test_the_inner_width_is_four_times_the_width_and_swiglu_has_about_as_many_weights():
    assert LayerSpec(96, n_heads=4).ffn_size == 384
    assert LayerSpec(96, n_heads=4, activation="swiglu").ffn_size == 256
    assert LayerSpec(100, n_heads=4, activation="swiglu").ffn_size == 288
    assert LayerSpec(96, n_heads=4, d_ff=50).ffn_size == 50


def test_a_spec_makes_the_norm_and_biases_that_it_names():
    ours = LayerSpec(32, n_heads=4).build()
    assert isinstance(ours.ffn_norm, RMSNorm)
    assert not [name for name, _ in ours.named_parameters() if name.endswith("bias")]
    tutorial = LayerSpec(32, n_heads=4, norm="layer", norm_first=False, qk_norm=False, bias=True).build()
    assert isinstance(tutorial.ffn_norm, torch.nn.LayerNorm)
    assert isinstance(tutorial.self_attn.q_norm, torch.nn.Identity)


def test_a_layer_with_norm_first_and_silent_sublayers_hands_its_input_through():
    layer, x = LayerSpec(32, n_heads=4).build(), torch.randn(2, 3, 32)
    for silent in (layer.self_attn.out_proj, layer.ffn.down_proj):
        torch.nn.init.zeros_(silent.weight)
    assert torch.equal(layer(x, mask=Mask()), x)


def test_dropout_acts_in_training_alone():
    layer, x = LayerSpec(32, n_heads=4, dropout=0.5).build(), torch.randn(2, 3, 32)
    assert not torch.equal(layer(x, mask=Mask()), layer(x, mask=Mask()))
    layer.eval()
    assert torch.equal(layer(x, mask=Mask()), layer(x, mask=Mask()))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"n_heads": 5},
            "d_model 32 is not divisible by n_heads 5; expected heads of equal size\nhint: choose n_heads",
        ),
        ({"n_kv_heads": 3}, "n_heads 4 is not divisible by n_kv_heads 3; expected groups of equal size"),
        ({"d_ff": 0}, "d_ff is 0; expected at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0; expected 0 <= dropout < 1"),
    ],
)
def test_an_impossible_layer_is_refused_with_the_numbers(changes, text):
    with pytest.raises(ValueError, match=text):
        LayerSpec(32, **{"n_heads": 4, **changes})
