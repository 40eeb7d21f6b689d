"""Bundles written as folders of `transformers`, and what cannot be written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.tokenizer import Bytes
from modules.generation import SamplingOptions
from modules.heads import NoHead, PooledClassifier
from modules.model import Model
from pipeline.config.model import build_model
from pipeline.errors import BundleError, InteropError
from pipeline.interop import proof
from pipeline.interop.export import export_bundle
from pipeline.runs.asking import generate, predict
from pipeline.runs.bundle import Bundle
from pipeline.tasks.causal_lm import CausalLM

DECODER = {
    "_target_": "modules.transformer.Decoder",
    "n_layers": 2,
    "max_seq_len": 32,
    "position": {"_target_": "modules.positions.Rotary"},
    "layer": {"_target_": "modules.layers.LayerSpec", "d_model": 32, "n_heads": 4, "qkv_bias": True},
}
TUTORIAL = {
    "_target_": "modules.transformer.EncoderDecoder",
    "n_layers": 1,
    "max_seq_len": 32,
    "position": {"_target_": "modules.positions.SinusoidalPlusLearned", "d_model": 32, "max_seq_len": 32},
    "layer": {
        "_target_": "modules.layers.LayerSpec", "d_model": 32, "n_heads": 4, "norm": "layer", "bias": True,
        "norm_first": False, "activation": "relu", "qk_norm": False,
    },
}  # fmt: skip


def make_bundle(backbone: dict[str, Any], **head: Any) -> Bundle:
    """A bundle in memory, whose every weight matters."""
    torch.manual_seed(0)
    tokenizer = Bytes().train([])
    node = {"backbone": backbone, "head": {"_target_": "modules.heads.LMHead", **head}, "init": "default"}
    model = build_model(node, tokenizer).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm.weight" in name else 0.0, 0.25)
    return Bundle(
        folder=Path("bundle"),
        model=model,
        tokenizer=tokenizer,
        task=CausalLM(),
        model_config=node,
        task_config={},
        config={},
        provenance={"run": "the-run", "corpus": {"name": "stories", "fingerprint": "f", "sources": []}},
        metrics={"val/loss": 1.5},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "architecture"), [(DECODER, "Qwen3ForCausalLM"), (TUTORIAL, "MarianMTModel")]
)
def test_an_exported_folder_loads_without_this_project_and_is_the_same_model(
    tmp_path: Path, backbone: dict[str, Any], architecture: str
) -> None:
    exported = export_bundle(make_bundle(backbone), tmp_path / "out")
    assert (exported.architecture, exported.error < 1e-6) == (architecture, True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [architecture]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "the-run" in card
    assert "| val/loss | 1.5 |" in card
    assert f"`{architecture}`" in card
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_an_export_that_differs_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = proof._loaded_elsewhere

    def damaged(folder: Path, check: Path) -> dict[str, Any]:
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.1.mlp.down_proj.weight"][0, 0] += 1.0
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return loaded(folder, check)

    monkeypatch.setattr(proof, "_loaded_elsewhere", damaged)
    with pytest.raises(InteropError, match=r"logits differ by .*, first in stack\.2"):
        export_bundle(make_bundle(DECODER), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("head", "model_type", "problem", "expected"),
    [
        ({"softcap": 15.0}, None, "cannot express model.head.softcap=15.0", "model.head.softcap=None"),
        ({}, "bert", "cannot express model.backbone._target_=modules.transformer.Decoder", "Encoder"),
        ({}, "llama", "cannot express model.backbone.layer.qk_norm=True", "layer.qk_norm=False"),
        ({}, "mamba", "FORMAT=mamba is not supported", "one of qwen3, llama,"),
    ],
)
def test_a_model_that_no_class_expresses_is_refused_with_the_option_in_the_way(
    tmp_path: Path, head: dict[str, Any], model_type: str | None, problem: str, expected: str
) -> None:
    with pytest.raises(InteropError) as error:
        export_bundle(make_bundle(DECODER, **head), tmp_path / "out", model_type)
    assert problem in error.value.problem
    assert expected in error.value.expected
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_was_imported_without_a_head_neither_writes_nor_is_exported(tmp_path: Path) -> None:
    whole = make_bundle(DECODER)
    bundle = replace(whole, model=Model(whole.model.backbone, NoHead()))
    with pytest.raises(InteropError, match=r"(?s)has no head.*use those files"):
        export_bundle(bundle, tmp_path / "out")
    with pytest.raises(BundleError, match="has no head"):
        generate(bundle, ["Once"], SamplingOptions())
    with pytest.raises(BundleError, match="has no head"):
        predict(bundle, [{"text": "Once"}], batch_size=1)
    assert list(tmp_path.iterdir()) == []


def test_a_head_of_a_task_is_refused_with_what_such_a_bundle_is_good_for(tmp_path: Path) -> None:
    whole = make_bundle(DECODER)
    head = PooledClassifier(whole.model.backbone.d_model, n_classes=2)
    bundle = replace(whole, model=Model(whole.model.backbone, head))
    with pytest.raises(InteropError, match="has a PooledClassifier") as error:
        export_bundle(bundle, tmp_path / "out")
    assert "make serve" in error.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InteropError, match="exists"):
        export_bundle(make_bundle(DECODER), tmp_path)
    assert (tmp_path / "mine").read_text() == "x"
