"""Small transformers with random weights, for all tests of this folder."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from modules.layers import LayerSpec
from modules.positions import (
    ALiBi,
    Learned,
    Position,
    RelativeBias,
    Rotary,
    Sinusoidal,
    SinusoidalPlusLearned,
)

D_MODEL, N_HEADS, VOCAB_SIZE, MAX_SEQ_LEN = 32, 4, 50, 64

POSITIONS: dict[str, Callable[[], Position]] = {
    "none": Position,
    "rotary": Rotary,
    "alibi": lambda: ALiBi(N_HEADS),
    "relative": lambda: RelativeBias(N_HEADS, n_buckets=8, max_distance=20, both_sides=True),
    "sinusoidal": lambda: Sinusoidal(D_MODEL),
    "learned": lambda: Learned(D_MODEL, max_seq_len=MAX_SEQ_LEN),
    "sinusoidal_plus_learned": lambda: SinusoidalPlusLearned(D_MODEL, max_seq_len=MAX_SEQ_LEN),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=sorted(POSITIONS))
def position(request: pytest.FixtureRequest) -> Position:
    return POSITIONS[request.param]()


@pytest.fixture
def build() -> Callable[..., nn.Module]:
    """build(Decoder, position=..., layer=...) gives a small transformer whose every weight matters."""

    def _build(kind: type[nn.Module], **changes: object) -> nn.Module:
        arguments: dict[str, object] = {
            "n_layers": 2,
            "max_seq_len": MAX_SEQ_LEN,
            "layer": LayerSpec(D_MODEL, n_heads=N_HEADS),
            "position": Rotary(),
            **changes,
        }
        model = kind(VOCAB_SIZE, **arguments)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.normal_(1.0 if "norm.weight" in name else 0.0, 0.25)
        return model

    return _build


@pytest.fixture
def ids() -> Callable[..., torch.Tensor]:
    """ids(B, T): random token ids."""
    return lambda *shape: torch.randint(VOCAB_SIZE, shape)
