import subprocess
import sys

import torch
from torch import nn

from modules.meta import on_meta_device


def test_modules_have_shapes_but_neither_memory_nor_values() -> None:
    with on_meta_device():
        module = nn.TransformerEncoderLayer(8, 2)
        embedding = nn.Embedding(4, 8)
    assert {weight.device.type for weight in [*module.parameters(), embedding.weight]} == {"meta"}
    truth = nn.TransformerEncoderLayer(8, 2).state_dict()
    assert {name: weight.shape for name, weight in module.state_dict().items()} == {
        name: weight.shape for name, weight in truth.items()
    }
    with on_meta_device():
        assert nn.Linear(2, 2, device="cpu").weight.abs().sum() > 0
        assert nn.init.constant_(torch.empty(2, device="cpu"), 3.0).sum() == 6


def test_building_them_does_not_import_torchs_compiler() -> None:
    code = """
import sys
from modules.init import initialize
from modules.layers import LayerSpec
from modules.meta import on_meta_device
from modules.positions import Rotary
from modules.transformer import Decoder
with on_meta_device():
    layer = LayerSpec(8, n_heads=2, qkv_bias=True)
    initialize(Decoder(64, n_layers=1, max_seq_len=8, layer=layer, position=Rotary()))
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
