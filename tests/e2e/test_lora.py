"""Fine-tuning with LoRA: a small bundle that is used as any other, and refused without its base."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline import load_bundle
from pipeline.__main__ import main
from pipeline.errors import BundleError
from tests.e2e.conftest import files, labelled

FIXTURES = Path(__file__).parents[1] / "fixtures" / "version_0_1"
WORDS = ("task=classify", "tracking=off", "trainer.val_every_steps=5", "trainer.score_rows=4")
LORA = ("init_from=old-pretrain", "peft=lora", "peft.rank=2")


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pretrained run, and `adapted`, a fine-tuning of it with LoRA."""
    folder = tmp_path_factory.mktemp("lora")
    shutil.copytree(FIXTURES / "old-pretrain", folder / "runs" / "old-pretrain")
    with contextlib.chdir(folder):
        data = files(labelled(folder / "rows.jsonl").name)
        assert main(["finetune", *WORDS, *LORA, *data, "trainer.max_steps=10", "name=adapted"]) == 0
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_file_holds_what_was_trained_and_the_model_is_the_base_with_that_added(trained: Path) -> None:
    folder = trained / "runs" / "adapted" / "bundles" / "best"
    stored = load_file(folder / "model.safetensors")
    assert {name.rpartition(".")[2] for name in stored if name.startswith("backbone.")} == {
        "lora_A",
        "lora_B",
    }
    assert {name for name in stored if name.startswith("head.")} == {
        "head.classes.weight",
        "head.classes.bias",
    }
    adapter = json.loads((folder / "model.json").read_text())["adapter"]
    assert (adapter["rank"], adapter["_target_"]) == (2, "modules.peft.LoRA")
    model = load_bundle("adapted").model.state_dict()
    base = load_bundle("old-pretrain").model.state_dict()
    for name, weight in base.items():
        if f"{name.removesuffix('weight')}lora_A" in stored:
            layer = name.removesuffix("weight")
            learnt = 16.0 / 2 * stored[f"{layer}lora_B"] @ stored[f"{layer}lora_A"]
            assert torch.equal(model[name], weight + learnt)
            assert learnt.abs().max() > 0
        elif name.startswith("backbone."):
            assert torch.equal(model[name], weight), name


@pytest.mark.slow
def test_a_run_that_goes_on_ends_with_the_weights_of_one_that_was_not_stopped(run, trained: Path) -> None:
    words = [*WORDS, *LORA, *files("rows.jsonl"), "peft.dropout=0.1", "trainer.checkpoint_every_steps=5"]
    assert run("finetune", *words, "trainer.max_steps=10", "name=whole").code == 0
    assert run("finetune", *words, "trainer.max_steps=5", "name=parts").code == 0
    assert run("finetune", "resume=parts", "trainer.max_steps=10").code == 0
    whole, parts = (
        load_file(trained / "runs" / name / "bundles" / "last" / "model.safetensors")
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.slow
def test_a_bundle_with_an_adapter_is_evaluated_answers_and_is_started_from_as_any_other(
    run, trained: Path
) -> None:
    (trained / "new.jsonl").write_text('{"sentence": "text number 3 is good"}\n')
    assert run("evaluate", "task=classify", "bundle=adapted", "tracking=off", *files("rows.jsonl")).code == 0
    assert run("predict", "task=classify", "bundle=adapted", "input=new.jsonl").code == 0
    told = run("lineage", "bundle=adapted")
    assert "old-pretrain" in told.out + told.err
    words = [
        *WORDS,
        "init_from=adapted",
        "peft=lora",
        *files("rows.jsonl"),
        "trainer.max_steps=5",
        "name=second",
    ]
    assert run("finetune", *words).code == 0
    assert load_bundle("second").predict([{"text": "text number 3 is good"}])


def test_without_its_base_or_with_another_one_it_is_refused(trained: Path) -> None:
    base = trained / "runs" / "old-pretrain" / "bundles" / "best"
    done = json.loads((base / "DONE").read_text())
    (base / "DONE").write_text(json.dumps({**done, "model.safetensors": "0" * 64}))
    with pytest.raises(BundleError, match="which has changed since, and cannot be used without it"):
        load_bundle("adapted")
    shutil.rmtree(base)
    with pytest.raises(BundleError, match=r"(?s)which does not exist, and cannot.*make reproduce RUN=old"):
        load_bundle("adapted")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["init_from=none", "peft=lora"],
            "peft=lora freezes pretrained weights, but init_from=none has none",
        ),
        ([*LORA, "peft.targets=[query]"], "no linear layer is named query; expected names among q_proj,"),
        ([*LORA, "peft.rank=0"], "peft.rank is 0"),
        ([*LORA, "peft.dropout=1.5"], "peft.dropout is 1.5"),
        ([*LORA, "freezing.frozen=embedding"], "peft=lora and freezing.frozen=embedding both determine"),
    ],
)
def test_a_mistake_is_answered_before_there_is_a_run(run, trained: Path, words: list[str], said: str) -> None:
    refused = run("finetune", *WORDS, *files("rows.jsonl"), "trainer.max_steps=5", *words)
    assert refused.code == 2
    assert said in refused.error
    assert {path.name for path in (trained / "runs").iterdir()} == {"old-pretrain", "adapted"}
