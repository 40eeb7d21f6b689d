"""FORMAT=peft: the `peft` library loads what is written, and its model is ours."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modules.model import Model
from modules.peft import LoRA, add_adapter
from pipeline.errors import InteropError
from pipeline.interop import adapter
from pipeline.interop.adapter import export_adapter
from pipeline.runs.bundle import Bundle, load_bundle, parent_of, save_bundle
from tests.pipeline.interop.test_export import DECODER, make_bundle

NODE = {"_target_": "modules.peft.LoRA", "rank": 2, "targets": ["q_proj", "up_proj", "out_proj"]}


def save(folder: Path, bundle: Bundle, model: Model, parent: dict[str, Any] | None, **more: Any) -> Bundle:
    provenance: dict[str, Any] = {"run": folder.parent.parent.name, "step": 1, "parent": parent}
    save_bundle(
        folder, model=model, tokenizer=bundle.tokenizer, model_config={**bundle.model_config, **more},
        task_config={"_target_": "pipeline.tasks.causal_lm.CausalLM"}, config={"choices": {}},
        provenance=provenance, metrics={},
    )  # fmt: skip
    return load_bundle(folder)


@pytest.fixture
def adapted(tmp_path: Path) -> Bundle:
    """A bundle with an adapter that has learnt something, and its base beside it."""
    base = save(tmp_path / "base-run" / "bundles" / "best", made := make_bundle(DECODER), made.model, None)
    model = load_bundle(base.folder).model
    add_adapter(model.backbone, LoRA(rank=2, targets=NODE["targets"]))  # type: ignore[arg-type]
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    folder = tmp_path / "adapted-run" / "bundles" / "best"
    return save(folder, base, model, parent_of(base), adapter=NODE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks it
def test_peft_loads_the_adapter_beside_the_exported_base_with_the_same_logits(
    adapted: Bundle, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = export_adapter(adapted, tmp_path / "out").folder
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 2
    assert len(AutoTokenizer.from_pretrained(folder)) == adapted.tokenizer.vocab_size
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    ids = torch.randint(adapted.tokenizer.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bare = base(ids).logits
        logits = PeftModel.from_pretrained(base, str(folder)).eval()(ids).logits
        expected = adapted.model({"input_ids": ids})
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(bare, expected, rtol=1e-1, atol=1e-1)


@pytest.mark.slow
def test_an_adapter_that_differs_from_the_bundle_is_refused(
    adapted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "NOTHING", 0.99)  # leaves out all directions but the largest
    with pytest.raises(InteropError, match=r"logits differ by .*, first in stack\.1"):
        export_adapter(adapted, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_an_adapter_is_refused(adapted: Bundle, tmp_path: Path) -> None:
    base = load_bundle(tmp_path / "base-run" / "bundles" / "best")
    with pytest.raises(InteropError, match="has no adapter"):
        export_adapter(base, tmp_path / "out")
    other = replace(adapted, model_config={**adapted.model_config, "head": {}})
    with pytest.raises(InteropError, match="was trained with more than an adapter"):
        export_adapter(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
