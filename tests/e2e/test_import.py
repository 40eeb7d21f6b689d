"""`make import` as a command: a bundle with its lineage, exported again bit for bit; and real weights."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from modules.generation import SamplingOptions
from pipeline.__main__ import main
from pipeline.files import read_yaml
from pipeline.interop.checkpoint import read_checkpoint
from pipeline.interop.importing import import_model
from pipeline.interop.tokenizer_files import write_tokenizer
from pipeline.runs.bundle import load_bundle
from pipeline.runs.stored import read_part
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.chat import Dialogue
from tests.e2e.conftest import files, labelled
from tests.pipeline.interop.folders import TEMPLATE, save_llama
from tests.pipeline.interop.test_tokenizer_files import chatml

WEIGHTS = Path(__file__).parents[2] / ".cache" / "weights"


@pytest.mark.slow
def test_an_imported_model_is_a_bundle_that_is_exported_again_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_llama(tmp_path / "theirs", tie_word_embeddings=False)
    (tmp_path / "theirs/README.md").write_text("---\nlicense: mit | <b>\n---\n# Theirs\n")
    assert main(["import", "source=theirs", "name=a", "tracking=off"]) == 0
    card = Path("runs/a/bundles/best/README.md").read_text()
    assert "imported from theirs (llama)" in card
    assert "Licence of the source: mit \\| &lt;b&gt;, according to its README.md" in card
    provenance = read_part(Path("runs/a/bundles/best"), "provenance.json")
    assert provenance["imported"]["model_type"] == "llama"
    assert {Path(source["uri"]).name for source in provenance["imported"]["sources"]} >= {
        *("model.safetensors", "config.json", "tokenizer.json")
    }
    for source in provenance["imported"]["sources"]:
        assert f"| {source['sha256'][:16]} | {source['n_bytes']:,} |" in card
    assert main(["generate", "bundle=a", "prompts=[Once]", "sampling.max_new_tokens=4"]) == 0
    assert main(["export", "bundle=a", "output=ours"]) == 0
    assert main(["lineage", "bundle=a", "tracking=off"]) == 0
    assert "model.safetensors" in re.sub(r"[\s│]", "", capsys.readouterr().out)  # lines are cut to the width
    before, after = (load_file(f"{name}/model.safetensors") for name in ("theirs", "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    settings = json.loads(Path("ours/tokenizer_config.json").read_text())
    assert (settings["chat_template"], settings["eos_token"]) == (TEMPLATE, "</s>")
    again = import_model(read_checkpoint(Path("ours")))
    assert again.tokenizer.digest == load_bundle(Path("runs/a/bundles/best")).tokenizer.digest


@pytest.mark.slow
def test_a_model_without_a_head_is_fine_tuned_at_its_own_rates_and_asked_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_llama(tmp_path / "theirs")
    transformers.LlamaModel.from_pretrained("theirs").save_pretrained("theirs")
    assert main(["import", "source=theirs", "name=a", "tracking=off"]) == 0
    said = capsys.readouterr().err
    assert "make finetune-classify INIT=a" in said
    assert "chat" not in said
    for command in ("serve", "evaluate-lm", "evaluate", "generate"):
        tracking = [] if command == "generate" else ["tracking=off"]
        assert main([command, "bundle=a", *tracking]) == 2
        assert "has no head, because the files it was imported from have none" in capsys.readouterr().err
    words = ("task=classify", "tracking=off", "trainer.max_steps=2", "trainer.val_every_steps=2")
    data = files(labelled(tmp_path / "rows.jsonl").name)
    assert main(["finetune", *words, *data, "init_from=a", "name=b"]) == 0
    assert "optimizer=imported" in capsys.readouterr().err
    assert read_yaml(Path("runs/b/config.yaml"))["optimizer"]["embedding_lr"] == 5e-5
    assert read_part(Path("runs/b/bundles/best"), "config.yaml")["choices"]["optimizer"] == "imported"
    chat = ["finetune", "task=chat", "tracking=off", *words[2:], "data=storyworld_chat"]
    assert main([*chat, "init_from=a"]) == 2
    assert "new weights would know nothing" in capsys.readouterr().err
    assert sorted(path.name for path in Path("runs").iterdir()) == ["a", "b"]
    small = ["data.n_train_rows=20", "data.n_validation_rows=5", "data.n_test_rows=5"]
    assert main([*chat, *small, "init_from=b"]) == 0
    said = " ".join(capsys.readouterr().err.split())  # lines are cut to the width
    assert "fine-tuned for a task with another head (PooledClassifier)" in said


@pytest.mark.slow
def test_a_language_model_with_chatml_replies_without_a_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = chatml(has_start=False)
    save_llama(tmp_path / "theirs", vocab_size=tokenizer.vocab_size)
    write_tokenizer(tokenizer, tmp_path / "theirs", frame=(True, False), chat=True)
    assert main(["import", "source=theirs", "name=a", "tracking=off"]) == 0
    assert "make try-chat BUNDLE=a" in capsys.readouterr().err
    turns = [{"role": "user", "text": "Where is it?"}, {"role": "assistant", "text": "Here."}]
    Path("rows.jsonl").write_text(json.dumps({"turns": turns}) + "\n")
    options = ["task=chat", "bundle=a", "task.max_reply_tokens=8"]
    assert main(["predict", *options, "input=rows.jsonl"]) == 0
    (row,) = map(json.loads, Path("rows.predictions.jsonl").read_text().splitlines())
    bundle = load_bundle(Path("runs/a/bundles/best"))
    task = Dialogue(max_reply_tokens=8)
    (reply,) = task.predict(bundle.model, bundle.tokenizer, [{"turns": turns[:1]}], batch_size=1)
    assert row["prediction"]["text"] == reply.text
    asked = [{"turns": turns[:1]}]
    assert bundle.predict(asked) == Dialogue().predict(bundle.model, bundle.tokenizer, asked, batch_size=1)
    monkeypatch.setattr("sys.stdin", io.StringIO("Where is it?\n"))
    assert main(["try", *options]) == 0
    assert reply.text in capsys.readouterr().out
    assert main(["predict", "task=classify", "bundle=a", "input=rows.jsonl"]) == 2
    assert "was trained for CausalLM" in capsys.readouterr().err


def test_a_run_that_exists_and_a_model_that_is_not_named_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert main(["import", "source=theirs", "name=a", "tracking=off"]) == 2
    assert "the run a already exists" in capsys.readouterr().err
    assert main(["import", "tracking=off"]) == 2
    assert "make import FROM=FOLDER" in capsys.readouterr().err
    (tmp_path / "theirs").mkdir()
    assert main(["import", "source=theirs", "tracking=off"]) == 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]


@pytest.mark.slow
@pytest.mark.skipif(not (WEIGHTS / "minilm").exists(), reason="make weights was not run")
def test_minilm_has_no_head_and_the_hidden_states_of_transformers() -> None:
    folder = WEIGHTS / "minilm"
    found = import_model(read_checkpoint(folder))
    assert (found.has_head, found.unused) == (False, ("pooler.dense.bias", "pooler.dense.weight"))
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    long = " ".join(["Ärger mit Emoji 🙂 and 春天 in one text [SEP]."] * 20)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    ids = words(long, split_special_tokens=True)["input_ids"]
    before, after = found.tokenizer.frame
    assert [*before, *found.tokenizer.encode(long), *after] == ids
    assert len(ids) > 128  # where the file would cut
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).last_hidden_state
        hidden = found.model.hidden({"input_ids": torch.tensor([ids])})
    assert (hidden - expected).norm() / expected.norm() < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not (WEIGHTS / "smollm2").exists(), reason="make weights was not run")
def test_smollm2_writes_what_transformers_writes() -> None:
    (file,) = (WEIGHTS / "smollm2").glob("*.gguf")
    checkpoint = read_checkpoint(file)
    found = import_model(checkpoint)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**checkpoint.config)).eval()
    theirs.load_state_dict({name: checkpoint.tensor(name) for name in checkpoint.names})
    words = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    prompt = "The capital of France is"
    ids = words(prompt, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**ids).logits
        logits = found.model({"input_ids": ids["input_ids"]})
    assert (logits - expected).norm() / expected.norm() < 1e-5
    written = theirs.generate(**ids, max_new_tokens=12, do_sample=False)[0]
    (sample,) = CausalLM().samples(
        found.model, found.tokenizer, prompts=[prompt], texts=[],
        options=SamplingOptions(temperature=0.0, max_new_tokens=12),
    )  # fmt: skip
    assert prompt + sample.output == words.decode(written, skip_special_tokens=True)
    assert found.tokenizer.special.chat_template == words.chat_template
    assert found.tokenizer.turn_frame("user")[0] == words("<|im_start|>user\n")["input_ids"]
