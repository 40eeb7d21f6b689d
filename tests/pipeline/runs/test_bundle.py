"""Bundles: what is loaded is what was saved, bit for bit; a save that is killed leaves the old one whole."""

import hashlib
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.tokenizer import Bytes
from modules.model import Model
from pipeline.config.compose import compose
from pipeline.config.model import build_model
from pipeline.config.plain import to_plain
from pipeline.config.recorded import filled
from pipeline.errors import BundleError, Stopped
from pipeline.runs import bundle
from pipeline.runs.bundle import DONE, Bundle, is_finished, load_bundle, read_done, save_bundle

TOKENIZER = Bytes().train([])
METRICS = {"val/loss": 1.25}


def model_config(*overrides: str) -> dict[str, Any]:
    return dict(to_plain(compose("pretrain", ["debug=quick", *overrides]).model))


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return model_config()


def save(folder: Path, config: dict[str, Any], *, seed: int = 0, **changes: Any) -> Model:
    """Save a bundle of a model with random weights; returns the model."""
    torch.manual_seed(seed)
    model = build_model(config, TOKENIZER)
    parts: dict[str, Any] = {
        "model_config": config,
        "task_config": {"_target_": "pipeline.tasks.causal_lm.CausalLM"},
        "config": {"seed": seed, "choices": {"task": "causal_lm"}},
        "provenance": {"run": "mine", "step": 7},
        "metrics": METRICS,
    }
    save_bundle(folder, model=model, tokenizer=TOKENIZER, **{**parts, **changes})
    return model


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_holds(found: Bundle, saved: Model) -> None:
    expected = weights(saved)
    assert weights(found.model).keys() == expected.keys()
    for name, tensor in weights(found.model).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm", "denoise"])
def test_a_model_that_is_recorded_with_all_defaults_is_loaded(task: str, tmp_path: Path) -> None:
    config = model_config(f"task={task}")
    saved = save(tmp_path / "best", config, model_config=filled(config, "model"))
    assert_holds(load_bundle(tmp_path / "best"), saved)


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm", "denoise"])
def test_what_is_loaded_is_what_was_saved_bit_for_bit(task: str, tmp_path: Path) -> None:
    saved = save(tmp_path / "b", model_config(f"task={task}"))
    found = load_bundle(tmp_path / "b")
    assert_holds(found, saved)
    assert found.tokenizer.digest == TOKENIZER.digest
    assert (found.metrics, found.provenance["step"], found.config["seed"]) == (METRICS, 7, 0)
    assert not found.model.training


def test_every_file_of_a_bundle_may_be_read_by_whom_the_umask_allows(
    config: dict[str, Any], tmp_path: Path
) -> None:
    save(tmp_path / "b", config)
    (tmp_path / "new").touch()
    usual = (tmp_path / "new").stat().st_mode
    assert {file.stat().st_mode for file in (tmp_path / "b").iterdir()} == {usual}


def test_tied_weights_are_one_tensor_after_loading(config: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "b", config)
    model = load_bundle(tmp_path / "b").model
    pointers = [weight.data_ptr() for weight in model.parameters()]
    assert len(pointers) == len(set(pointers))
    batch = {"input_ids": torch.arange(8).reshape(1, 8)}
    before = model(batch)
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(2.0)
    assert not torch.equal(before, model(batch))


def test_loading_leaves_the_random_numbers_of_the_program_alone(
    config: dict[str, Any], tmp_path: Path
) -> None:
    save(tmp_path / "b", config)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_bundle(tmp_path / "b")
    assert torch.equal(torch.rand(4), expected)


def test_done_is_written_last_and_holds_the_hash_of_every_other_file(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    write = bundle.write_json

    def written(file: Path, value: Any) -> None:
        order.append(file.name)
        assert DONE in order or not (file.parent / DONE).exists()
        write(file, value)

    monkeypatch.setattr(bundle, "write_json", written)
    folder = tmp_path / "b"
    save(folder, config)
    assert order[-1] == DONE
    files = [file for file in folder.iterdir() if file.name != DONE]
    assert read_done(folder) == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert {file.name for file in files} == {
        *("model.safetensors", "model.json", "tokenizer.json", "task.json"),
        *("config.yaml", "provenance.json", "metrics.json"),
    }


@pytest.mark.parametrize("moment", ["save_model", "write_json", "sha256_of", "sync", "_move"])
def test_a_save_that_is_stopped_at_any_moment_leaves_the_old_bundle_whole(
    moment: str, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = save(tmp_path / "b", config, seed=1)

    def stop(*_: Any, **__: Any) -> None:
        raise Stopped(15)

    with monkeypatch.context() as patch:
        patch.setattr(bundle, moment, stop)
        with pytest.raises(Stopped):
            save(tmp_path / "b", config, seed=2)
    assert_holds(load_bundle(tmp_path / "b"), old)
    assert [file.name for file in tmp_path.iterdir()] == ["b"]


def test_a_kill_between_the_two_renames_leaves_the_old_bundle_to_be_found(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = save(tmp_path / "b", config, seed=1)
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.name.endswith(".draft"):
            raise Stopped(9)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(Stopped):
            save(tmp_path / "b", config, seed=2)
    assert not (tmp_path / "b").exists()
    assert is_finished(tmp_path / "b")
    assert_holds(load_bundle(tmp_path / "b"), old)


def test_what_a_killed_save_left_is_in_nobodys_way(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / ".b.draft").mkdir()
    (tmp_path / ".b.draft" / "model.safetensors").write_bytes(b"half")
    assert not is_finished(tmp_path / "b")
    saved = save(tmp_path / "b", config)
    assert_holds(load_bundle(tmp_path / "b"), saved)
    assert [file.name for file in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("n_bytes", [100, 50_000])
def test_a_full_disk_is_one_line_and_leaves_the_old_bundle_whole(
    n_bytes: int, config: dict[str, Any], tmp_path: Path
) -> None:
    old = save(tmp_path / "b", config, seed=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        with pytest.raises(BundleError, match=r"(?s)cannot write the bundle .*hint: free some space"):
            save(tmp_path / "b", config, seed=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_holds(load_bundle(tmp_path / "b"), old)
    assert [file.name for file in tmp_path.iterdir()] == ["b"]


def test_a_folder_that_cannot_be_written_is_one_line(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="cannot write the bundle"):
        save(tmp_path / "file" / "b", config)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "torch.nn.Linear",
        "pipeline.runs.bundle.save_bundle",
        "modules.model.torch.load",
        "pipeline.tasks.causal_lm.generate",
    ],
)
def test_foreign_code_is_not_run(target: str, config: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "b", config, task_config={"_target_": target})
    with pytest.raises(BundleError, match=r"task.json cannot be used \(task._target_"):
        load_bundle(tmp_path / "b")


def test_foreign_code_is_found_deep_in_the_description_of_a_model(
    config: dict[str, Any], tmp_path: Path
) -> None:
    saved = json.loads(json.dumps(config))
    saved["backbone"]["position"] = {"inner": [{"_target_": "os.system", "command": "true"}]}
    save(tmp_path / "b", config, model_config=saved)
    with pytest.raises(BundleError, match=r"(?s)model.json cannot be used .*'os\.system'"):
        load_bundle(tmp_path / "b")


def test_a_changed_file_and_a_missing_one_are_named(config: dict[str, Any], tmp_path: Path) -> None:
    for name in ("model.safetensors", "metrics.json", "tokenizer.json"):
        save(tmp_path / name, config)
        data = bytearray((tmp_path / name / name).read_bytes())
        data[-2] ^= 1
        (tmp_path / name / name).write_bytes(data)
        with pytest.raises(BundleError, match=f"{name} has changed since it was saved"):
            load_bundle(tmp_path / name)
        (tmp_path / name / name).unlink()
        with pytest.raises(BundleError, match=f"{name} has changed since it was saved"):
            load_bundle(tmp_path / name)


def test_another_tokenizer_than_the_weights_were_trained_with_is_refused_with_both_hashes(
    config: dict[str, Any], tmp_path: Path
) -> None:
    provenance = {"run": "mine", "step": 7}
    save(tmp_path / "own", config, provenance={**provenance, "tokenizer": TOKENIZER.digest})
    load_bundle(tmp_path / "own")
    trained_with = hashlib.sha256(b"another").hexdigest()
    save(tmp_path / "b", config, provenance={**provenance, "tokenizer": trained_with})
    with pytest.raises(BundleError, match=r"tokenizer.json is a different tokenizer") as caught:
        load_bundle(tmp_path / "b")
    assert TOKENIZER.digest in str(caught.value)
    assert trained_with in str(caught.value)


@pytest.mark.parametrize("done", ["", "[]", '{"model.json": ', '{"../x": 1}', "{}"])
def test_a_damaged_done_is_no_finished_bundle(done: str, config: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "b", config)
    (tmp_path / "b" / DONE).write_text(done)
    with pytest.raises(BundleError, match="b"):
        load_bundle(tmp_path / "b")


def test_no_folder_and_no_done_are_told_apart(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle at"):
        load_bundle(tmp_path / "b")
    save(tmp_path / "b", config)
    (tmp_path / "b" / DONE).unlink()
    with pytest.raises(BundleError, match="is not a finished bundle"):
        load_bundle(tmp_path / "b")


def test_a_bundle_that_has_been_moved_is_still_whole(config: dict[str, Any], tmp_path: Path) -> None:
    saved = save(tmp_path / "b", config)
    moved = (tmp_path / "b").rename(tmp_path / "elsewhere")
    assert_holds(load_bundle(moved), saved)
