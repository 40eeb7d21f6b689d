"""An adapter is used with its base, wherever a bundle with the weights of its base is."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from modules.peft import LoRA, add_adapter
from pipeline.errors import BundleError
from pipeline.runs.bundle import load_bundle, parent_of, save_bundle
from tests.pipeline.runs.test_bundle import TOKENIZER, model_config, save

NODE = {"_target_": "modules.peft.LoRA", "rank": 2, "targets": ["q_proj"]}
IMPORTED = {"imported": {"from": "theirs/model.gguf"}}


def place(runs: Path, run: str) -> Path:
    return runs / run / "bundles" / "best"


def save_base(runs: Path, run: str = "base", *, seed: int = 0, **more: Any) -> Path:
    save(place(runs, run), model_config(), seed=seed, provenance={"run": run, "step": 7, **more})
    return place(runs, run)


def save_adapter(runs: Path, base: Path) -> Path:
    start = load_bundle(base)
    parent = parent_of(start)
    add_adapter(start.model.backbone, LoRA(rank=2, targets=["q_proj"]))
    for name, weight in start.model.named_parameters():
        if "lora_B" in name:
            nn.init.ones_(weight)
    folder = place(runs, "adapted")
    save_bundle(
        folder, model=start.model, tokenizer=TOKENIZER, model_config={**start.model_config, "adapter": NODE},
        task_config=start.task_config, config=start.config, metrics={},
        provenance={"run": "adapted", "step": 1, "parent": parent},
    )  # fmt: skip
    return folder


def weights_of(folder: Path) -> dict[str, list[float]]:
    return {name: each.tolist() for name, each in load_bundle(folder).model.state_dict().items()}


def test_a_base_that_was_made_again_under_any_name_serves_its_adapter(tmp_path: Path) -> None:
    base = save_base(tmp_path)
    folder = save_adapter(tmp_path, base)
    before = weights_of(folder)
    assert before != weights_of(base)
    shutil.rmtree(base)
    save_base(tmp_path, "other", seed=1)
    save_base(tmp_path, "again")
    assert weights_of(folder) == before
    shutil.rmtree(tmp_path / "again")
    save_base(tmp_path, cost="another time")  # its digest has changed, its weights have not
    assert weights_of(folder) == before


def test_a_base_with_other_weights_is_refused(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path, save_base(tmp_path))
    save_base(tmp_path, seed=1)
    with pytest.raises(BundleError, match="which has changed since, and cannot be used without it"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("more", "left", "hint"),
    [
        (IMPORTED, True, "or import it again: `make import FROM=theirs/model.gguf`"),
        ({}, True, "or recreate it with `make reproduce RUN=base`"),
        ({}, False, "or train again"),
    ],
)
def test_the_hint_is_a_way_to_get_the_base_again(
    tmp_path: Path, more: dict[str, Any], left: bool, hint: str
) -> None:
    base = save_base(tmp_path, **more)
    folder = save_adapter(tmp_path, base)
    shutil.rmtree(tmp_path / "base")
    if left:
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "config.yaml").touch()
    with pytest.raises(BundleError) as refused:
        load_bundle(folder)
    assert f"is an adapter for {base}, which does not exist," in refused.value.problem
    assert refused.value.remedy == f"restore the base from a copy, {hint}"
