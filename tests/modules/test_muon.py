"""Newton-Schulz in both types beside the singular value decomposition, and which type a machine is given."""

import pytest
import torch

from modules import hardware, muon
from modules.muon import TypedMuon, orthogonalized

COEFFICIENTS = {"coefficients": (3.4445, -4.7750, 2.0315), "steps": 5, "eps": 1e-7}
SHAPES = pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16), (1, 7)])


def gradient(shape: tuple[int, int]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@SHAPES
def test_in_fp32_each_singular_value_is_mapped_by_the_polynomial_and_the_directions_stay(
    shape: tuple[int, int],
) -> None:
    matrix = gradient(shape)
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    a, b, c = COEFFICIENTS["coefficients"]
    s = s / s.norm()
    seen = s > 0.02
    for _ in range(COEFFICIENTS["steps"]):
        s = a * s + b * s**3 + c * s**5
    found = orthogonalized(matrix, torch.float32, **COEFFICIENTS)
    torch.testing.assert_close(found.double(), u @ torch.diag(s) @ vh, rtol=1e-4, atol=1e-5)
    assert ((s > 0.3) & (s < 1.3))[seen].all()


@SHAPES
def test_in_bf16_it_is_torchs_own_iteration_bit_for_bit(shape: tuple[int, int]) -> None:
    from torch.optim._muon import _zeropower_via_newtonschulz

    matrix = gradient(shape)
    theirs = _zeropower_via_newtonschulz(matrix, COEFFICIENTS["coefficients"], 5, 1e-7)
    assert torch.equal(orthogonalized(matrix, torch.bfloat16, **COEFFICIENTS), theirs)


@SHAPES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_matrices_is_orthogonalized_like_each_of_them(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    matrices = [gradient(shape), 100 * gradient(shape).flip(0), torch.zeros(shape)]
    together = orthogonalized(torch.stack(matrices), dtype, **COEFFICIENTS)
    for found, matrix in zip(together, matrices, strict=True):
        torch.testing.assert_close(
            found,
            orthogonalized(matrix, dtype, **COEFFICIENTS),
            rtol=1e-2 if dtype == torch.bfloat16 else 1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("together", [2**20, 70, 1])
def test_weights_are_updated_as_one_by_one_whichever_are_orthogonalized_together(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "BATCH_ELEMENTS", together)
    shapes = [(6, 5), (5, 6), (6, 5), (2, 3), (6, 5)]
    ours, theirs = ([torch.nn.Parameter(gradient(shape)) for shape in shapes] for _ in range(2))
    options = {"lr": 0.1, "weight_decay": 0.3, "momentum": 0.9}
    first = TypedMuon(ours, newton_schulz="bf16", **options)
    second = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **options)
    for step in range(3):
        for number, weight in enumerate((*ours, *theirs)):
            weight.grad = gradient(weight.shape).roll(step + number % len(shapes), dims=0)
        first.step()
        second.step()
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


def test_matrices_take_turns_with_updates_that_are_as_large_as_those_that_they_missed() -> None:
    weights = [torch.nn.Parameter(gradient(shape)) for shape in [(6, 5), (5, 6), (6, 5), (2, 3), (4, 4)]]
    expected, averages = [w.detach().clone() for w in weights], [torch.zeros_like(w) for w in weights]
    optimizer = TypedMuon(
        weights, newton_schulz="fp32", update_every=2, lr=0.1, weight_decay=0.3, momentum=0.9
    )
    for step in range(5):
        if step == 3:  # resumed
            stored = optimizer.state_dict()
            optimizer = TypedMuon(weights, newton_schulz="bf16", lr=0.5)
            optimizer.load_state_dict(stored)
        for number, (weight, average) in enumerate(zip(weights, averages, strict=True)):
            weight.grad = gradient(weight.shape).roll(step + number, dims=0)
            average.lerp_(weight.grad, 0.1)
            if number % 2 == step % 2:
                direction = orthogonalized(weight.grad.lerp(average, 0.9), torch.float32, **COEFFICIENTS)
                expected[number] *= 1 - 2 * 0.1 * 0.3
                expected[number] -= 2 * 0.1 * 0.2 * max(weight.shape) ** 0.5 * direction
        optimizer.step()
        torch.testing.assert_close([w.detach() for w in weights], expected)


def test_the_momentum_itself_is_not_changed_by_the_iteration() -> None:
    matrix = gradient((8, 6))
    before = matrix.clone()
    orthogonalized(matrix, torch.float32, **COEFFICIENTS)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize(("speedup", "taken"), [(0.02, "fp32"), (0.8, "fp32"), (3.9, "bf16")])
def test_bf16_is_taken_on_a_cpu_that_was_measured_to_be_much_faster_in_it(
    speedup: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "bf16_speedup_on_cpu", lambda: speedup)
    assert muon.fastest_newton_schulz(torch.device("cpu")) == taken


@pytest.mark.parametrize(
    ("width", "step_tokens", "expected"),
    [
        (128, 8 * 256, 4),
        (128, 12 * 64, 4),
        (768, 2 * 1024, 4),
        (768, 16 * 1024, 2),
        (768, 2**19, 1),
        (8, 1, 4),
    ],
)
def test_matrices_wait_longer_the_fewer_tokens_a_step_has(
    width: int, step_tokens: int, expected: int
) -> None:
    assert muon.fitting_update_every(width, step_tokens) == expected


def test_a_machine_is_measured_once_in_a_process() -> None:
    assert hardware.bf16_speedup_on_cpu() == hardware.bf16_speedup_on_cpu() > 0


def test_a_machine_that_is_slow_in_one_type_is_not_measured_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    products = []

    def seconds_of(matrix: torch.Tensor) -> float:
        products.append(matrix.dtype)
        return 0.1 if matrix.dtype == torch.bfloat16 else 0.004

    monkeypatch.setattr(hardware, "_seconds_of_product", seconds_of)
    assert hardware.bf16_speedup_on_cpu.__wrapped__() == pytest.approx(0.04)
    assert len(products) == 2 * 2


def test_a_checkpoint_keeps_its_type_and_one_of_torchs_muon_can_be_read() -> None:
    weight = torch.nn.Parameter(gradient((4, 3)))
    weight.grad = gradient((4, 3))
    first, second = (TypedMuon([weight], newton_schulz=name, lr=0.1) for name in ("bf16", "fp32"))
    first.step()
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["newton_schulz"] == "bf16"
    plain = torch.optim.Muon([weight], lr=0.1, adjust_lr_fn="match_rms_adamw")
    plain.load_state_dict(first.state_dict())
    second.load_state_dict(plain.state_dict())
    second.step()
    assert torch.equal(plain.state[weight]["momentum_buffer"], first.state[weight]["momentum_buffer"])
