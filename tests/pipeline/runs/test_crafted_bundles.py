"""A bundle may come from anywhere: what stands in it ends in one line, runs nothing, takes no memory."""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from datamodules.files import sha256_of
from datamodules.tokenizer import Bytes
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.model import build_model
from pipeline.config.plain import to_plain
from pipeline.config.tasks import to_node
from pipeline.errors import BundleError
from pipeline.runs import bundle
from pipeline.runs.bundle import load_bundle, save_bundle
from pipeline.runs.stored import backbone_class, read_task, task_class

#: What a template of Hydra or OmegaConf would make of a text: a file that proves that something ran.
TRAP = "${oc.create:{_target_: pathlib.Path.touch, _args_: [{_target_: pathlib.Path, _args_: [PROOF]}]}}"


@pytest.fixture(scope="module")
def parts() -> dict[str, bytes]:
    """The files of a small bundle that is whole."""
    config = to_plain(compose("pretrain", ["debug=quick", "size.d_model=8", "tokenizer=bytes"]).model)
    tokenizer = Bytes().train([])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "b"
        save_bundle(
            place,
            model=build_model(config, tokenizer),
            tokenizer=tokenizer,
            model_config=config,
            task_config={"_target_": "pipeline.tasks.causal_lm.CausalLM"},
            config={"seed": 1, "choices": {"task": "causal_lm"}},
            provenance={"run": "mine", "step": 7},
            metrics={"val/loss": 1.25},
        )
        return {file.name: file.read_bytes() for file in place.iterdir()}


Write = Callable[..., Path]


@pytest.fixture
def write(parts: dict[str, bytes], tmp_path: Path) -> Write:
    """A bundle with some files replaced and all hashes right."""

    def make(**files: bytes) -> Path:
        folder = tmp_path / "b"
        folder.mkdir(exist_ok=True)
        changed = {name.replace("__", "."): content for name, content in files.items()}
        for name, content in {**parts, **changed}.items():
            (folder / name).write_bytes(content)
        hashes = {name: sha256_of(folder / name) for name in bundle.FILES}
        (folder / bundle.DONE).write_text(json.dumps(hashes))
        return folder

    return make


def changed(parts: dict[str, bytes], name: str, **keys: Any) -> bytes:
    """A JSON file with other values at dotted keys (`__` for a dot)."""
    record = json.loads(parts[name])
    for key, value in keys.items():
        *path, last = key.split("__")
        node = record
        for part in path:
            node = node[part]
        node[last] = value
    return json.dumps(record).encode()


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    message = str(caught.value)
    assert message.count("\n") == 1
    assert folder.name in message
    return message


def test_the_bundle_that_is_changed_here_is_whole(write: Write) -> None:
    assert load_bundle(write()).metrics == {"val/loss": 1.25}


@pytest.mark.parametrize(
    "name", ["model.json", "task.json", "config.yaml", "provenance.json", "metrics.json"]
)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"{",
        b'{"a": ',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" + b"c: &c [*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c]\n",
        b"!!python/object/apply:os.system ['true']",
    ],
    ids=range(13),
)
def test_a_file_that_holds_something_else_is_one_line(name: str, content: bytes, write: Write) -> None:
    if name == "config.yaml" and content.startswith(b"a: &a"):
        content += b"choices: " + b"[" * 70 + b"]" * 70
    if name == "metrics.json" and content.startswith(b'{"a": 9'):
        content = b"{"
    assert name in refusal(write(**{name.replace(".", "__"): content}))


@pytest.mark.parametrize(
    "keys",
    [
        {"backbone": {}},
        {"backbone": None},
        {"backbone": {"_target_": "modules.transformer.Decoder"}},
        {"backbone___target_": "modules.heads.LMHead"},
        {"backbone___target_": ["modules.transformer.Decoder"]},
        {"backbone___target_": "modules.transformer.Encoder.forward"},
        {"backbone__n_layers": 0},
        {"backbone__n_layers": -1},
        {"backbone__n_layers": 10**12},
        {"backbone__n_layers": 1.5},
        {"backbone__n_layers": "2"},
        {"backbone__n_layers": True},
        {"backbone__max_seq_len": 10**15},
        {"backbone__surplus": 1},
        {"backbone___partial_": True},
        {"backbone__layer__d_model": 16},
        {"backbone__layer__d_model": 10**9},
        {"backbone__layer__n_heads": 3},
        {"backbone__layer__d_ff": 2**60},
        {"backbone__layer__norm": TRAP},
        {"backbone__layer__dropout": "nan"},
        {"backbone__layer__dropout": float("nan")},
        {"backbone__layer__dropout": 2.0},
        {"backbone__layer": {"_target_": "os.system", "command": "touch PROOF"}},
        {"backbone__position": {"_target_": "modules.positions.ALiBi", "n_heads": 10**9}},
        {"backbone__position": {"_target_": "builtins.exec", "_args_": ["raise SystemExit"]}},
        {"backbone__position": TRAP},
        {"head": []},
        {"head": {"_target_": "modules.heads.PooledClassifier", "d_model": 8, "n_classes": 2}},
        {"head__softcap": -1.0},
        {"head__softcap": {"_target_": "os.system", "command": "touch PROOF"}},
        {"init": TRAP},
        {"init": 3},
    ],
    ids=str,
)
def test_a_description_of_no_model_is_one_line(
    keys: dict[str, Any],
    write: Write,
    parts: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    refusal(write(model__json=changed(parts, "model.json", **keys)))
    assert not Path("PROOF").exists()


@pytest.mark.parametrize(
    "task",
    [
        {"_target_": "os.system", "command": "touch PROOF"},
        {"_target_": "pipeline.tasks.base.PretrainingTask"},
        {"_target_": "pipeline.tasks.finetuning.FinetuneTask"},
        {"_target_": "pipeline.machine.options.TrainerOptions"},
        {"_target_": "modules.transformer.Decoder"},
        {"_target_": "runs.evil.Task"},
        {"_target_": "pipeline.tasks.causal_lm.CausalLM", "_args_": [1]},
        {"_target_": "pipeline.tasks.masked_lm.MaskedLM", "rate": TRAP},
        {"_target_": "pipeline.tasks.masked_lm.MaskedLM", "rate": {"_target_": "os.getcwd"}},
        {"_target_": "pipeline.tasks.masked_lm.MaskedLM", "rate": 10**400},
        {"_target_": 7},
        {},
    ],
    ids=str,
)
def test_a_description_of_no_task_is_one_line_wherever_it_is_read(
    task: dict[str, Any], write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write(task__json=json.dumps(task).encode())
    refusal(folder)
    with pytest.raises(BundleError):
        read_task(folder)
    assert not Path("PROOF").exists()


def test_labels_that_look_like_templates_are_what_they_are(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "s3cr3t")
    labels = ["${oc.env:MY_SECRET}", "${name}", TRAP, "???", "\\${a}", "C:\\dir\\"]
    node = {"_target_": "pipeline.tasks.classify.TextClassification", "label_names": labels}
    folder = write(task__json=json.dumps(node).encode())
    task: Any = read_task(folder)
    assert list(task.label_names) == labels
    assert task_class(folder) is type(task)
    assert construct(to_node(task)) == task


def poisoned(
    parts: dict[str, bytes], tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any]
) -> bytes:
    file = tmp_path / "weights"
    file.write_bytes(parts["model.safetensors"])
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return file.read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.popitem(), "missing: "),
        (lambda found: found.update(surplus=torch.zeros(3)), "not of this model: surplus"),
        (lambda found: found.update({k: torch.zeros(1) for k in found}), "has the shape (1,)"),
        (lambda found: next(iter(found.values())).view(-1)[0].fill_(torch.nan), "contains NaN or infinity"),
        (lambda found: next(iter(found.values())).view(-1)[-1].fill_(-torch.inf), "contains NaN or infinity"),
        (lambda found: found.update({k: v.long() for k, v in found.items()}), "is of type I64"),
        (lambda found: found.update({k: v.bool() for k, v in found.items()}), "is of type BOOL"),
    ],
    ids=["missing", "surplus", "shape", "NaN", "infinity", "integers", "booleans"],
)
def test_weights_that_are_not_those_of_the_model_are_one_line(
    change: Callable[[dict[str, torch.Tensor]], Any],
    says: str,
    write: Write,
    parts: dict[str, bytes],
    tmp_path: Path,
) -> None:
    assert says in refusal(write(model__safetensors=poisoned(parts, tmp_path, change)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"\xff" * 64,
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        b"[" * 4096,
    ],
    ids=range(6),
)
def test_a_file_that_holds_no_weights_is_one_line(content: bytes, write: Write) -> None:
    assert "model.safetensors" in refusal(write(model__safetensors=content))


@pytest.mark.parametrize("content", [b"{}", b"null", b"\xff", b'{"model": {"type": "BPE"}}', b"[" * 100_000])
def test_a_file_that_holds_no_tokenizer_is_one_line(content: bytes, write: Write) -> None:
    assert "tokenizer" in refusal(write(tokenizer__json=content))


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/file", "", ".", "a\0b"])
def test_a_bundle_names_no_file_outside_of_itself(name: str, write: Write) -> None:
    folder = write()
    hashes = json.loads((folder / bundle.DONE).read_text())
    (folder / bundle.DONE).write_text(json.dumps({**hashes, name: "0" * 64}))
    refusal(folder)


def test_a_link_in_a_bundle_is_no_file_of_it(write: Write, tmp_path: Path) -> None:
    folder = write()
    outside = tmp_path / "outside.json"
    (folder / "metrics.json").rename(outside)
    os.symlink(outside, folder / "metrics.json")
    assert "metrics.json is a symbolic link" in refusal(folder)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_loads_or_is_one_line(
    data: st.DataObject, write: Write, parts: dict[str, bytes]
) -> None:
    name = data.draw(st.sampled_from(["model.json", "task.json", "provenance.json", "metrics.json"]))
    record = json.loads(parts[name])
    places: list[tuple[Any, Any]] = []
    waiting = [record]
    while waiting:
        node = waiting.pop()
        places += [(node, key) for key in node]
        waiting += [value for value in node.values() if isinstance(value, dict) and value]
    node, key = data.draw(st.sampled_from(places))
    texts = st.sampled_from(["", TRAP, "modules.heads.LMHead", "os.system", "\ud800", "x" * 1000])
    numbers = st.sampled_from([0, -1, 2, 3, 10**6, 10**30, 1.5, float("inf"), float("nan")])
    value = st.recursive(st.none() | st.booleans() | numbers | texts, st.lists, max_leaves=3)
    if data.draw(st.booleans()):
        del node[key]
    else:
        node[key] = data.draw(value | st.dictionaries(st.sampled_from(["_target_", "a"]), value, max_size=2))
    folder = write(**{name.replace(".", "__"): json.dumps(record).encode()})
    for use in (load_bundle, backbone_class, task_class):
        with suppress(BundleError):
            use(folder)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("metrics.json", {"val/loss": "text"}),
        ("metrics.json", {"val/loss": [1.0]}),
        ("provenance.json", {"run": None}),
        ("provenance.json", {"corpus": 7}),
        ("provenance.json", {"code": [1]}),
        ("provenance.json", {"parent": "x"}),
        ("provenance.json", {"parent": {"run": "x"}}),
        ("provenance.json", {"parent": {"run": "x", "bundle": "y", "provenance": {"run": 3}}}),
        ("provenance.json", {"step": "x"}),
        ("provenance.json", {"tokenizer": [1]}),
    ],
    ids=str,
)
def test_a_record_of_another_form_is_one_line(
    name: str, keys: dict[str, Any], write: Write, parts: dict[str, bytes]
) -> None:
    assert name in refusal(write(**{name.replace(".", "__"): changed(parts, name, **keys)}))
