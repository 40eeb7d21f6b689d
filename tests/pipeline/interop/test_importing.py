"""Folders of Hugging Face read as bundles, and what is wrong with those that cannot be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from modules.heads import NoHead
from pipeline.errors import InteropError
from pipeline.interop.checkpoint import read_checkpoint
from pipeline.interop.hub import find_model
from pipeline.interop.importing import Imported, import_model
from tests.pipeline.interop.folders import TEMPLATE, save_bert, save_llama, save_tokenizer


def imported(folder: Path) -> Imported:
    return import_model(read_checkpoint(folder))


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_a_folder_gives_the_same_logits_also_in_several_files(tmp_path: Path, shard: str) -> None:
    theirs = save_llama(tmp_path, shard=shard)
    assert len([*tmp_path.glob("*.safetensors")]) == (1 if shard == "5GB" else 6)
    found = imported(tmp_path)
    ids = torch.randint(4, 260, (2, 64))
    with torch.no_grad():
        expected = theirs.double()(ids).logits
        logits = found.model.double()({"input_ids": ids})
    assert (logits - expected).norm() / expected.norm() < 1e-6
    text = "a longer text than eight tokens, ünïcode 春"
    theirs_ids = transformers.AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    assert found.tokenizer.encode(text).tolist() == theirs_ids
    assert (found.tokenizer.bos_id, found.tokenizer.eos_id, found.tokenizer.mask_id) == (1, 2, 3)
    assert found.tokenizer.special.chat_template == TEMPLATE
    assert found.task == "pipeline.tasks.causal_lm.CausalLM"


def test_an_encoder_that_was_saved_without_a_head_gets_none(tmp_path: Path) -> None:
    theirs = save_bert(tmp_path, transformers.BertModel)
    found = imported(tmp_path)
    assert isinstance(found.model.head, NoHead)
    assert found.unused == ("pooler.dense.bias", "pooler.dense.weight")
    ids = torch.randint(4, 260, (2, 64))
    with torch.no_grad():
        expected = theirs.double()(ids).last_hidden_state
        hidden = found.model.double().hidden({"input_ids": ids})
    assert (hidden - expected).norm() / expected.norm() < 1e-6
    save_bert(tmp_path / "whole", transformers.BertForMaskedLM)
    assert not isinstance(imported(tmp_path / "whole").model.head, NoHead)


def test_rows_that_only_fill_up_the_embedding_are_kept_and_never_written(tmp_path: Path) -> None:
    save_llama(tmp_path, vocab_size=320)
    tokenizer = imported(tmp_path).tokenizer
    assert tokenizer.vocab_size == 320
    assert {*range(260, 320)} <= {*tokenizer.special_ids}


def edit_config(**values: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return edit


def edit_weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors")

    return change


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_a_shard(folder: Path) -> None:
    save_llama(folder, shard="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    sorted(folder.glob("model-*"))[1].unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def pickled_without_a_head(folder: Path) -> None:
    edit_config(architectures=["LlamaModel"])(folder)
    pickled(folder)


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (edit_weights(lambda weights: weights.pop(NORM)), rf"missing: {NORM}"),
        (
            edit_weights(lambda weights: weights.update({"model.strange": torch.ones(1)})),
            "not used: model.strange",
        ),
        (
            edit_weights(lambda weights: weights.update({NORM: torch.ones(7)})),
            rf"{NORM} has the shape \(7,\) instead of \(32,\)",
        ),
        (edit_config(model_type="mamba"), "'mamba' are not supported; expected one of qwen3, llama"),
        (
            edit_config(auto_map={"AutoModel": "code.Model"}),
            r"(?s)auto_map.*foreign code is never run",
        ),
        (edit_config(quantization_config={"bits": 4}), "weights are quantized"),
        (edit_config(hidden_act="tanh"), "hidden_act is 'tanh', which is not supported for llama"),
        (edit_config(hidden_act="relu"), "two tensors that should be equal differ"),
        (edit_config(num_attention_heads=5), "transformers rejects config.json"),
        (
            edit_config(num_key_value_heads=5),
            r"a model that cannot be built \(.*n_kv_heads 5; expected groups",
        ),
        (cut, "damaged or truncated"),
        (without_a_shard, r"lacks model-00002-of-00006.safetensors; expected the 6 files"),
        (
            edit_weights(lambda weights: weights.update({NORM: torch.full((32,), torch.nan)})),
            f"contain NaN or infinity: {NORM}",
        ),
        (
            pickled,
            r"(?s)weights only in pytorch_model.bin, .*LlamaForCausalLM.*save_pretrained\('converted'\)",
        ),
        (pickled_without_a_head, r"(?s)weights only in pytorch_model.bin, .*transformers.AutoModel.from_pre"),
        (lambda folder: save_tokenizer(folder, n_more=5), "has 265 tokens, but the embedding has 260 rows"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (
            lambda folder: (folder / "config.json").write_text("[]"),
            "config.json does not contain a JSON object",
        ),
    ],
)
def test_what_is_wrong_is_one_clear_error(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    save_llama(tmp_path)
    damage(tmp_path)
    with pytest.raises(InteropError, match=said):
        imported(tmp_path)


def test_a_bias_that_ours_lacks_must_be_zero(tmp_path: Path) -> None:
    sizes = {
        "vocab_size": save_tokenizer(tmp_path), "hidden_size": 32, "intermediate_size": 48, "head_dim": 8,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "attention_bias": True,
    }  # fmt: skip
    theirs = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes))
    theirs.save_pretrained(tmp_path)
    assert imported(tmp_path).model.backbone.stack.layers[0].self_attn.k_proj.bias is not None
    bias = "model.layers.1.self_attn.o_proj.bias"
    edit_weights(lambda weights: weights.update({bias: torch.full((32,), 0.5)}))(tmp_path)
    with pytest.raises(InteropError, match=f"a bias that must be zero is not: {bias}"):
        imported(tmp_path)


def test_a_name_without_a_network_and_a_file_say_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InteropError, match=r"(?s)org/model is not a local folder .*make import FROM=FOLDER"):
        find_model("org/model")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InteropError, match=r"(?s)notes.txt is a file.*make import FROM="):
        read_checkpoint(tmp_path / "notes.txt")
    with pytest.raises(InteropError, match=r"there is no folder \./nothing"):
        find_model("./nothing")
