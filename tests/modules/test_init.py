import math

import pytest
import torch
from torch import nn

from modules.heads import LMHead, PooledClassifier, SpanHead
from modules.init import INIT_SCHEMES, initialize
from modules.layers import LayerSpec
from modules.masks import Mask
from modules.model import Model
from modules.positions import Rotary, SinusoidalPlusLearned
from modules.transformer import Decoder, Encoder, EncoderDecoder

TUTORIAL = LayerSpec(
    256, n_heads=4, norm="layer", norm_first=False, activation="relu", qk_norm=False, bias=True
)


def weights_after(scheme: str, layer: LayerSpec | None = None) -> dict[str, torch.Tensor]:
    position = Rotary() if layer is None else SinusoidalPlusLearned(256, max_seq_len=64)
    layer = LayerSpec(256, n_heads=4) if layer is None else layer
    backbone = Decoder(500, n_layers=3, max_seq_len=64, layer=layer, position=position)
    model = Model(backbone, LMHead(backbone.embedding, bias=True))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(torch.nan)
    initialize(model, scheme)
    return dict(model.named_parameters())


@pytest.mark.parametrize("scheme", sorted(INIT_SCHEMES))
@pytest.mark.parametrize("layer", [None, TUTORIAL], ids=["default", "tutorial"])
def test_every_tensor_gets_its_value_norms_one_and_biases_zero(scheme, layer):
    for name, weight in weights_after(scheme, layer).items():
        assert weight.isfinite().all(), name
        if name.endswith("norm.weight"):
            assert (weight == 1).all(), name
        elif name.endswith("bias"):
            assert (weight == 0).all(), name


def test_the_default_law_is_small_by_the_fan_in_with_silent_feed_forward():
    for name, weight in weights_after("default").items():
        if name.endswith("down_proj.weight"):
            assert (weight == 0).all(), name
        elif weight.dim() == 2 and not name.endswith("out_proj.weight"):
            assert weight.std().item() == pytest.approx(math.sqrt(2 / (5 * 256)), rel=0.03), name


@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_under_the_default_law_attention_passes_on_half_of_what_it_looks_at(n_kv_heads):
    attention = LayerSpec(256, n_heads=4, n_kv_heads=n_kv_heads).build_attention()
    initialize(attention, "default")
    x = torch.randn(64, 8, 256)
    with torch.no_grad():
        mean = x.mean(dim=1, keepdim=True).expand(-1, 8, -1)
        passed = attention(mean, mask=Mask())
    assert ((passed * mean).sum() / mean.square().sum()).item() == pytest.approx(0.5, rel=0.1)


def attention_by_distance(
    n_kv_heads: int, layer: int, kind: type[Decoder | Encoder] = Decoder
) -> torch.Tensor:
    """The mean attention of each head (H, 4) to the tokens 0 to 3 places back, from random tokens."""
    torch.manual_seed(0)
    spec = LayerSpec(128, n_heads=4, n_kv_heads=n_kv_heads, qkv_bias=True)
    backbone = kind(500, n_layers=2, max_seq_len=64, layer=spec, position=Rotary())
    initialize(backbone)
    x = nn.functional.normalize(backbone.embedding(torch.randint(500, (8, 64))), dim=-1) * 128**0.5
    rotation = backbone.position.rotation(torch.arange(64).unsqueeze(0), 32)
    with torch.no_grad():
        weights = backbone.stack.layers[layer].self_attn.attention_weights(
            x, mask=Mask.past(), rotation=rotation
        )
    return torch.stack([weights.diagonal(-back, -2, -1)[..., 8:].mean((0, 2)) for back in range(4)], dim=1)


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_the_first_heads_of_a_decoder_start_with_the_previous_tokens(n_kv_heads: int) -> None:
    first, second = (attention_by_distance(n_kv_heads, layer) for layer in (0, 1))
    assert first[0].argmax() == second[0].argmax() == 1
    assert first[1].argmax() == 2
    assert torch.stack((first[0, 1], first[1, 2], second[0, 1])).min() > 0.5
    assert torch.cat((first[2:], second[1:])).max() < 0.1


def test_one_head_of_each_layer_starts_without_a_preference() -> None:
    spec = LayerSpec(128, n_heads=2, qkv_bias=True)
    backbone = Decoder(500, n_layers=2, max_seq_len=64, layer=spec, position=Rotary())
    initialize(backbone)
    for layer in backbone.stack.layers:
        first, second = layer.self_attn.q_proj.bias.view(2, 64)
        assert first.any()
        assert not second.any()


@pytest.mark.parametrize(("d_head", "gain"), [(32, 2.0), (128, 1.0)])
def test_larger_heads_whose_scores_are_larger_start_with_a_smaller_gain(d_head: int, gain: float) -> None:
    spec = LayerSpec(128, n_heads=4, d_head=d_head, qkv_bias=True)
    backbone = Decoder(500, n_layers=1, max_seq_len=64, layer=spec, position=Rotary())
    initialize(backbone)
    norm = backbone.stack.layers[0].self_attn.q_norm
    torch.testing.assert_close(norm.weight, torch.full((d_head,), gain))


def test_an_encoder_starts_without_such_heads() -> None:
    assert attention_by_distance(4, 0, Encoder).max() < 0.1


def test_the_gpt2_law_scales_the_outputs_by_the_depth():
    for name, weight in weights_after("gpt2").items():
        if name.endswith(("out_proj.weight", "down_proj.weight")):
            assert weight.std().item() == pytest.approx(0.02 / math.sqrt(6), rel=0.03), name
        elif weight.dim() == 2:
            assert weight.std().item() == pytest.approx(0.02, rel=0.03), name


def test_the_tutorials_law_is_glorots_with_embeddings_of_size_one_after_their_scale():
    for name, weight in weights_after("xavier", TUTORIAL).items():
        if "embedding" in name:
            assert weight.std().item() == pytest.approx(1 / 16, rel=0.03), name
        elif weight.dim() == 2:
            assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / sum(weight.shape)), rel=0.01), (
                name
            )


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    torch.manual_seed(5)
    first = weights_after("default")
    torch.manual_seed(5)
    again = weights_after("default")
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = weights_after("default")
    assert not torch.equal(first["backbone.embedding.weight"], other["backbone.embedding.weight"])


@pytest.mark.parametrize("head", [PooledClassifier(32, n_classes=3), SpanHead(32)])
def test_the_init_schemes_cover_all_heads_and_architectures(head, build):
    initialize(Model(build(EncoderDecoder), head))


def test_a_tensor_that_no_line_fits_is_an_error():
    model = nn.Module()
    model.register_parameter("scale", nn.Parameter(torch.ones(3)))
    with pytest.raises(ValueError, match="no rule of the init scheme 'default' matches parameter 'scale'"):
        initialize(model)
