"""What is said about an adapter before training."""

import pytest
import torch

from modules.heads import LMHead, PooledClassifier
from modules.layers import LayerSpec
from modules.model import Model
from modules.peft import LoRA
from modules.positions import Rotary
from modules.transformer import Decoder
from pipeline.stages.finetune.prepare import _adapt as adapt


@pytest.mark.parametrize("has_classes", [True, False])
def test_the_head_is_counted_as_trained_only_if_it_has_weights_of_its_own(
    has_classes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = Decoder(9, n_layers=1, max_seq_len=8, layer=LayerSpec(d_model=8, n_heads=2), position=Rotary())
    head: torch.nn.Module = LMHead(backbone.embedding)
    if has_classes:
        head = PooledClassifier(8, n_classes=3, pooling="last")
    adapt(Model(backbone, head), LoRA(rank=2, targets=["q_proj"]))
    told = capsys.readouterr().err
    assert "LoRA of rank 2 in 1 layers" in told
    assert ("including the head" in told) is has_classes
