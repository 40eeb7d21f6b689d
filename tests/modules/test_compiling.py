"""Compiled layers compute the same, and are compiled once."""

import subprocess
import sys

import pytest

COMPILED = """
import copy
import torch
from torch._dynamo.utils import counters
from modules.layers import LayerSpec
from modules.positions import Rotary
from modules.transformer import Decoder, set_compiled, set_recompute

torch.manual_seed(0)
layer = LayerSpec(32, n_heads=4)
model = Decoder(50, n_layers=3, max_seq_len=64, layer=layer, position=Rotary())
batch = {"input_ids": torch.randint(50, (2, 12)), "segment_ids": torch.tensor([[1] * 6 + [2] * 6] * 2)}
direction = torch.randn(2, 12, 32)

def gradients(model):
    loss = (model(batch) * direction).sum()
    return torch.autograd.grad(loss, list(model.parameters()))

eager = gradients(model)
with torch.no_grad():
    expected = model(batch)
for n_compiled, recompute in enumerate(("none", "selective", "full"), start=1):
    compiled = copy.deepcopy(model)
    set_recompute(compiled, recompute)
    set_compiled(compiled, True)
    for found, wanted in zip(gradients(compiled), eager, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert torch.equal(compiled(batch), expected)
    assert counters["stats"]["unique_graphs"] == n_compiled, counters["stats"]
set_compiled(compiled, False)
assert all(torch.equal(found, wanted) for found, wanted in zip(gradients(compiled), eager, strict=True))
"""


@pytest.mark.slow
def test_layers_are_compiled_once_for_training_and_have_the_same_gradients() -> None:
    """In a process of its own: the checks of shapes cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
