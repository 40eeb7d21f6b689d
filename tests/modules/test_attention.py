from functools import partial

import pytest
import torch
from torch import nn

from modules import attention
from modules.attention import MultiHeadAttention, attend
from modules.cache import KVCache, LayerCache
from modules.masks import Mask
from modules.norms import RMSNorm
from modules.positions import ALiBi, Rotary
from tests import reference

SEGMENTS = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 3, 3]])


def masks() -> dict[str, Mask]:
    alibi = ALiBi(4).bias(torch.arange(6)[None], torch.arange(6)[None])
    return {
        "all": Mask(),
        "past": Mask.past(),
        "segments": Mask.segments(SEGMENTS),
        "past of segments": Mask.past() & Mask.segments(SEGMENTS),
        "bias": Mask.past().with_bias(alibi),
        "memory": Mask.memory(torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])),
        "across": Mask.across(torch.tensor([[1, 2, 3, 0, 0, 0], [3, 3, 2, 2, 1, 1]]), SEGMENTS),
    }


def truth(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask) -> torch.Tensor:
    added = mask.additive(6, 6, q)
    added = torch.zeros(1, 1, 6, 6) if added is None else added
    allowed = (added > -torch.inf).expand(2, 4, 6, 6)
    if mask.alive is not None:
        allowed = allowed & mask.alive
    return reference.attention(q, k, v, allowed, added.expand(2, 4, 6, 6))


@pytest.mark.parametrize("name", sorted(masks()))
def test_attention_equals_equation_1_computed_number_by_number(name):
    q, k, v = torch.randn(3, 2, 4, 6, 8).unbind()
    mask = masks()[name]
    torch.testing.assert_close(attend(q, k, v, mask), truth(q, k, v, mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["past of segments", "bias"])
def test_scores_of_later_keys_are_not_computed_where_a_mask_says_that_they_are_not_needed(name, monkeypatch):
    mask = masks()[name]
    leaves = [torch.randn(2, 4, 6, 8, requires_grad=True) for _ in range(3)]
    g = torch.randn(2, 4, 6, 8)
    assert attention._fits_half(*leaves, mask, 0.0)
    assert not attention._fits_half(*leaves, Mask.segments(SEGMENTS), 0.0)
    half = attend(*leaves, mask)
    monkeypatch.setattr(attention, "_fits_half", lambda *_: False)
    whole = attend(*leaves, mask)
    torch.testing.assert_close(half, whole)
    grads = (torch.autograd.grad(seen, leaves, g) for seen in (half, whole))
    for first, second in zip(*grads, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", sorted(masks()))
def test_attention_by_products_equals_the_kernel_in_value_and_gradients(name):
    mask = masks()[name]
    leaves = [torch.randn(2, 4, 6, 8, requires_grad=True) for _ in range(3)]
    g = torch.randn(2, 4, 6, 8)
    by_kernel = attend(*leaves, mask)
    by_products = attention._attend_by_products(*leaves, mask, 0.0)
    by_products = by_products if mask.alive is None else by_products * mask.alive
    torch.testing.assert_close(by_products, by_kernel)
    for first, second in zip(
        torch.autograd.grad(by_products, leaves, g), torch.autograd.grad(by_kernel, leaves, g), strict=True
    ):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", sorted(masks()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_mask_makes_values_or_gradients_infinite(name, dtype):
    leaves = [torch.randn(2, 4, 6, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
    out = attend(*leaves, masks()[name])
    out.sum().backward()
    assert out.isfinite().all()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_attention_in_bfloat16_is_close_to_float32():
    q, k, v = torch.randn(3, 2, 4, 64, 32).unbind()
    low = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), Mask.past())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), attend(q, k, v, Mask.past()), atol=0.03, rtol=0.03)


def test_grouped_heads_equal_repeated_heads():
    for dtype in (torch.float32, torch.bfloat16):
        q = torch.randn(2, 4, 6, 8, dtype=dtype)
        k, v = torch.randn(2, 2, 2, 6, 8, dtype=dtype).unbind()
        grouped = attend(q, k, v, Mask.past())
        repeated = attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), Mask.past())
        torch.testing.assert_close(grouped, repeated)


@pytest.mark.parametrize("n_kv_heads", [1, 2])
def test_grouped_attention_equals_full_attention_with_repeated_weights(n_kv_heads):
    grouped = MultiHeadAttention(32, n_heads=4, n_kv_heads=n_kv_heads)
    full = MultiHeadAttention(32, n_heads=4)
    weights = {name: weight.detach() for name, weight in grouped.named_parameters()}
    for name in ("k_proj.weight", "v_proj.weight"):
        per_head = weights[name].unflatten(0, (n_kv_heads, 8))
        weights[name] = per_head.repeat_interleave(4 // n_kv_heads, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    x = torch.randn(2, 6, 32)
    torch.testing.assert_close(grouped(x, mask=Mask.past()), full(x, mask=Mask.past()))


def test_self_attention_is_cross_attention_to_itself():
    attn, x = MultiHeadAttention(32, n_heads=4, qk_norm=partial(RMSNorm, 8)), torch.randn(2, 6, 32)
    torch.testing.assert_close(attn(x, x, mask=Mask.past()), attn(x, mask=Mask.past()))


def test_qk_norm_makes_the_scores_blind_to_the_size_of_queries_and_keys():
    attn, x = MultiHeadAttention(32, n_heads=4, qk_norm=partial(RMSNorm, 8)), torch.randn(2, 6, 32)
    before = attn(x, mask=Mask())
    with torch.no_grad():
        attn.q_proj.weight *= 100
        attn.k_proj.weight *= 0.1
    torch.testing.assert_close(attn(x, mask=Mask()), before, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", sorted(masks()))
def test_the_weights_shown_are_the_weights_used(name):
    attn, x = (
        MultiHeadAttention(32, n_heads=4, n_kv_heads=2, qk_norm=partial(RMSNorm, 8)),
        torch.randn(2, 6, 32),
    )
    rotation, mask = Rotary().rotation(torch.arange(6)[None], 8), masks()[name]
    weights = attn.attention_weights(x, mask=mask, rotation=rotation)
    values = attn.v_proj(x).unflatten(-1, (2, 8)).transpose(1, 2).repeat_interleave(2, dim=1)
    expected = attn.out_proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attn(x, mask=mask, rotation=rotation), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("n_kv_heads", "bias"), [(4, True), (2, False)])
def test_one_product_for_queries_keys_and_values_is_used_in_bfloat16_and_equals_three(
    monkeypatch: pytest.MonkeyPatch, n_kv_heads: int, bias: bool
) -> None:
    attn = MultiHeadAttention(
        32, n_heads=4, n_kv_heads=n_kv_heads, qkv_bias=bias, qk_norm=partial(RMSNorm, 8)
    )
    rotation, calls = Rotary().rotation(torch.arange(6)[None], 8), []
    in_one_product = attention._in_one_product
    monkeypatch.setattr(attention, "_in_one_product", lambda *a: calls.append(1) or in_one_product(*a))
    x = torch.randn(2, 6, 32, requires_grad=True)

    def results() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            out = attn(x, mask=Mask.past(), rotation=rotation)
        return [out, *torch.autograd.grad(out.float().square().sum(), [x, *attn.parameters()])]

    ours = results()
    assert calls == [1]
    with monkeypatch.context() as patched:
        patched.setattr(attention, "_prefers_one_product", lambda *_: False)
        truth = results()
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, true, atol=0.05, rtol=0.02)
    attn(x, mask=Mask.past())
    with attn.k_proj.register_forward_hook(lambda *_: None), torch.autocast("cpu", torch.bfloat16):
        attn(x, mask=Mask.past())
    attn.q_proj = nn.utils.parametrizations.weight_norm(attn.q_proj)  # another class than nn.Linear
    with torch.autocast("cpu", torch.bfloat16):
        attn(x, mask=Mask.past())
        with torch.no_grad():
            attn(x, mask=Mask.past())
    assert calls == [1]


def test_a_hook_can_record_attention_weights_without_a_flag_in_forward():
    attn, x, seen = MultiHeadAttention(32, n_heads=4), torch.randn(2, 6, 32), []

    def record(module: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor) -> None:
        seen.append(module.attention_weights(*args, **kwargs))

    with attn.register_forward_hook(record, with_kwargs=True):
        attn(x, mask=Mask.past())
    torch.testing.assert_close(seen[0].sum(-1), torch.ones(2, 4, 6))
    assert seen[0].triu(1).abs().max() == 0


def test_dropout_acts_on_weights_in_training_alone():
    attn, x = MultiHeadAttention(32, n_heads=4, dropout=0.5), torch.randn(2, 6, 32)
    assert not torch.equal(attn(x, mask=Mask()), attn(x, mask=Mask()))
    attn.eval()
    assert torch.equal(attn(x, mask=Mask()), attn(x, mask=Mask()))


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"n_heads": 5}, "d_model 32 is not divisible by n_heads 5; expected heads of equal size"),
        ({"n_heads": 0}, "d_model 32 is not divisible by n_heads 0"),
        ({"n_heads": 4, "n_kv_heads": 3}, "n_heads 4 is not divisible by n_kv_heads 3"),
        ({"n_heads": 4, "n_kv_heads": 0}, "n_heads 4 is not divisible by n_kv_heads 0"),
    ],
)
def test_heads_that_do_not_divide_are_refused_with_the_numbers(sizes, text):
    with pytest.raises(ValueError, match=text):
        MultiHeadAttention(32, **sizes)


def test_a_full_cache_refuses_more_tokens():
    cache = LayerCache(4)
    cache.append(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8))
    with pytest.raises(ValueError, match="space for 4 tokens, but received 5; expected at most 4"):
        cache.append(torch.zeros(1, 2, 2, 8), torch.zeros(1, 2, 2, 8))
    whole = KVCache(2, batch_size=1, max_tokens=4)
    with pytest.raises(ValueError, match="space for 4 tokens, but received 5; expected at most 4"):
        whole.append(torch.ones(1, 5, dtype=torch.int64), torch.zeros(1, 5, dtype=torch.int64))
