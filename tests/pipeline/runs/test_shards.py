"""Folders of sharded tensors: which belongs to a checkpoint, and that reading one runs no code."""

import pickle
from pathlib import Path

import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.runs.checkpoint_files import AtomicCheckpointIO
from pipeline.runs.shard_folders import SHARDS, draft_folder, folders_of, next_folder, publish
from pipeline.runs.shards import finish_writing, put_back, start_writing, take_out, whole_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

TENSORS = {
    ("state_dict", "weight"): torch.arange(6.0).view(2, 3),
    ("optimizer_states", 0, "state", 1, "exp_avg"): torch.ones(3, dtype=torch.bfloat16),
}
REST = {"global_step": 3, "state_dict": {}, "optimizer_states": [{"state": {1: {"step": torch.tensor(2.0)}}}]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint with a folder, written by one process."""
    path = tmp_path / "last.ckpt"
    save(path)
    return path


def save(path: Path) -> None:
    folder = next_folder(path)
    sums = finish_writing(start_writing(TENSORS, folder, None), folder, 0)
    publish(folder)
    table = {"folder": folder.name, "sha256": sums, "tensors": [list(place) for place in TENSORS]}
    AtomicCheckpointIO().save_checkpoint({**REST, SHARDS: table}, path)


def test_tensors_that_are_taken_out_of_a_checkpoint_can_be_put_back() -> None:
    checkpoint = {"a": torch.ones(2), "b": [{"c": {1: torch.zeros(1)}}, "text"], "d": {}}
    rest, taken = take_out(checkpoint, lambda tensor: True)
    assert rest == {"b": [{"c": {}}, "text"], "d": {}}
    assert list(taken) == [("a",), ("b", 0, "c", 1)]
    put_back(rest, taken)
    assert rest == checkpoint


def test_a_checkpoint_is_put_together_bit_for_bit(path: Path) -> None:
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["weight"], TENSORS["state_dict", "weight"])
    state = loaded["optimizer_states"][0]["state"][1]
    assert state["exp_avg"].dtype == torch.bfloat16
    assert state["step"] == 2
    assert SHARDS not in loaded


def test_the_next_checkpoint_has_another_folder_and_removes_the_old_one_and_drafts(path: Path) -> None:
    (old,) = folders_of(path)
    draft_folder(path.with_name("last.shards-7")).mkdir()
    save(path)
    (new,) = folders_of(path)
    assert new != old
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, f"{path.name}.sha256", new.name]


def test_a_plain_checkpoint_in_its_place_removes_the_folder(path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint({"global_step": 4}, path)
    assert not folders_of(path)


def test_the_file_alone_is_read_without_its_folder(path: Path) -> None:
    (folder,) = folders_of(path)
    folder.rename(folder.with_name("away"))
    assert AtomicCheckpointIO().load_file(path)["global_step"] == 3


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code of the file was run')",)


def test_a_folder_that_would_run_code_is_refused(path: Path) -> None:
    (folder,) = folders_of(path)
    (folder / ".metadata").write_bytes(pickle.dumps(Harmful()))
    table = AtomicCheckpointIO().load_file(path)
    table[SHARDS]["sha256"] = {}
    with pytest.raises(CheckpointError, match=r"builtins\.exec does not describe a tensor"):
        whole_checkpoint(table, path)


def test_a_folder_elsewhere_is_not_read(path: Path) -> None:
    table = AtomicCheckpointIO().load_file(path)
    table[SHARDS]["folder"] = "../elsewhere"
    with pytest.raises(CheckpointError, match=r"elsewhere, a part of last\.ckpt, is missing"):
        whole_checkpoint(table, path)
