"""Dropout: how many elements are dropped and how they are spread, its gradient, and when it does nothing."""

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binom, chisquare
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modules.attention import attend
from modules.dropout import Dropout, drop
from modules.masks import Mask


def kept(n: int, share: float, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return drop(torch.ones(n), share) != 0


@pytest.mark.parametrize("share", [0.001, 0.1, 0.25, 0.5, 0.9])
def test_drops_as_many_elements_as_a_binomial_distribution_says(share: float) -> None:
    n = 1_000_003
    n_dropped = n - int(kept(n, share).sum())
    low, high = binom.interval(1 - 1e-6, n, share)
    assert low <= n_dropped <= high


def test_each_of_the_four_elements_of_a_draw_is_dropped_as_often() -> None:
    n_dropped = (~kept(4_000_000, 0.1)).view(-1, 4).sum(dim=0)
    assert chisquare(n_dropped.numpy()).pvalue > 1e-6


@pytest.mark.parametrize("distance", [1, 2, 3, 4])
def test_elements_near_each_other_are_dropped_independently(distance: int) -> None:
    dropped = ~kept(1_000_000, 0.3)
    both = int((dropped[distance:] & dropped[:-distance]).sum())
    low, high = binom.interval(1 - 1e-6, len(dropped) - distance, 0.3**2)
    assert low <= both <= high


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_kept_elements_and_gradients_are_scaled_as_by_torch(dtype: torch.dtype) -> None:
    x = torch.randn(7, 5, 3).to(dtype).transpose(0, 2).requires_grad_()
    out = drop(x, 0.25)
    out.sum().backward()
    dropped = out == 0
    assert dropped.any()
    assert not dropped.all()
    expected = torch.where(dropped, 0, x / (1 - 0.25))
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(x.grad, torch.where(dropped, 0, torch.full_like(x, 1 / (1 - 0.25))))


def test_a_seed_gives_the_same_mask_and_another_seed_another_one() -> None:
    assert torch.equal(kept(1000, 0.5), kept(1000, 0.5))
    assert not torch.equal(kept(1000, 0.5), kept(1000, 0.5, seed=2))


def test_recomputed_activations_are_dropped_in_the_same_places() -> None:
    x = torch.randn(64, requires_grad=True)
    torch.manual_seed(1)
    (plain,) = torch.autograd.grad(drop(x, 0.5).pow(2).sum(), x)
    torch.manual_seed(1)
    out = checkpoint(drop, x, 0.5, use_reentrant=False)
    assert isinstance(out, Tensor)
    (recomputed,) = torch.autograd.grad(out.pow(2).sum(), x)
    assert torch.equal(recomputed, plain)


def test_nothing_is_dropped_in_evaluation_or_with_a_probability_of_zero() -> None:
    x = torch.randn(10)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert not torch.equal(Dropout(0.5)(x), x)


def test_an_empty_tensor_and_a_probability_near_zero_change_nothing() -> None:
    assert drop(torch.empty(0, 3), 0.5).shape == (0, 3)
    assert torch.equal(drop(torch.ones(100), 1e-9), torch.ones(100))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_dropout_has_the_mean_of_attention_without(causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 4, 8) for _ in range(3))
    mask = Mask(causal=causal)
    many = [each.expand(20_000, -1, -1, -1) for each in (q, k, v)]
    mean = attend(*many, mask, dropout=0.2).mean(dim=0)
    exact = F.scaled_dot_product_attention(q, k, v, is_causal=causal)[0]
    torch.testing.assert_close(mean, exact, atol=0.03, rtol=0)
