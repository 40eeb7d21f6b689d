import pytest
import torch

from modules.norms import RMSNorm, rms_norm_as_on_gpu
from modules.positions import Rotary
from tests import reference


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 4, 12)])
def test_rms_norm_equals_its_formula_in_value_and_gradients(shape):
    norm = RMSNorm(12, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    x, g = torch.randn(shape, requires_grad=True), torch.randn(shape)
    ours, truth = norm(x), reference.rms_norm(x, norm.weight, 1e-5)
    torch.testing.assert_close(ours, truth)
    got = torch.autograd.grad(ours, (x, norm.weight), g)
    for mine, true in zip(got, torch.autograd.grad(truth, (x, norm.weight), g), strict=True):
        torch.testing.assert_close(mine, true, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("with_gradients", [True, False])
def test_a_rotation_turns_the_result_in_value_and_gradients(with_gradients):
    norm, position_ids = RMSNorm(8, eps=1e-5), torch.tensor([[0, 1, 2, 3, 4], [0, 1, 0, 1, 40]])
    torch.nn.init.normal_(norm.weight)
    x, g = torch.randn(2, 5, 3, 8, requires_grad=with_gradients), torch.randn(2, 5, 3, 8)
    rotation = Rotary(base=100.0).rotation(position_ids, 8)
    with torch.set_grad_enabled(with_gradients):
        ours = norm(x, rotation)
        normed = reference.rms_norm(x, norm.weight, 1e-5)
        turned = reference.rotary(normed.detach().transpose(1, 2), position_ids, 100.0).transpose(1, 2)
        torch.testing.assert_close(ours, turned, atol=1e-5, rtol=1e-5)
    if with_gradients:
        truth = torch.autograd.grad(rotation.apply(normed), (x, norm.weight), g)
        for mine, true in zip(torch.autograd.grad(ours, (x, norm.weight), g), truth, strict=True):
            torch.testing.assert_close(mine, true, atol=1e-5, rtol=1e-5)


def test_rms_norm_of_a_strided_view_has_right_gradients():
    norm, whole = RMSNorm(6), torch.randn(3, 4, 12, requires_grad=True)
    x, g = whole[:, :, 3:9].transpose(0, 1), torch.randn(4, 3, 6)
    got = torch.autograd.grad(norm(x), whole, g)[0]
    truth = torch.autograd.grad(reference.rms_norm(x, norm.weight, 1e-6), whole, g)[0]
    torch.testing.assert_close(got, truth, atol=1e-5, rtol=1e-5)


def test_rms_norm_works_in_float32_inside_and_keeps_the_type_outside():
    norm, x = RMSNorm(64), torch.randn(8, 64, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
        out.sum().backward()
    truth = reference.rms_norm(x.detach().float(), norm.weight, 1e-6)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, truth.bfloat16(), atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(norm.weight.grad, truth.detach().sum(0), atol=1e-5, rtol=1e-5)


def test_a_rotation_is_computed_before_the_result_is_rounded():
    norm, x = RMSNorm(64), torch.randn(2, 9, 3, 64, dtype=torch.bfloat16, requires_grad=True)
    rotation = Rotary().rotation(torch.arange(9)[None], 64)
    truth = rotation.apply(reference.rms_norm(x.detach().float(), norm.weight, 1e-6)).bfloat16()
    assert (norm(x, rotation) == truth).float().mean() > 0.99


def test_rms_norm_of_zeros_is_zero_with_finite_gradients():
    x = torch.zeros(2, 8, requires_grad=True)
    RMSNorm(8)(x).sum().backward()
    assert x.grad.isfinite().all()


def test_the_norm_that_measures_a_gpu_computes_the_same():
    norm, x = RMSNorm(8), torch.randn(1, 5, 2, 8)
    rotation = Rotary().rotation(torch.arange(5)[None], 8)
    torch.testing.assert_close(rms_norm_as_on_gpu(norm, x, rotation), norm(x, rotation))
    torch.testing.assert_close(rms_norm_as_on_gpu(norm, x), norm(x))
