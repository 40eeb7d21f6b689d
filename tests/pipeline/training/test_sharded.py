"""Training in several processes: ddp and fsdp have the losses of one process; sharded checkpoints."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError
from pipeline.runs.shard_folders import folders_of
from tests.pipeline.toy import checkpoint, differences
from tests.pipeline.training.together import Case, Losses, fit, run_together

pytestmark = [
    pytest.mark.slow,
    # Lightning 2.6's own call of torch.
    pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning"),
]

CASES = [
    Case(name="ddp", strategy="ddp", accumulate=2, ema=0.8, optimizer="muon"),
    Case(name="fsdp"),
    Case(name="fsdp, Muon, passes, average", optimizer="muon", accumulate=2, ema=0.8),
    Case(name="fsdp, masked, recomputed", task="masked_lm", recompute="full", ema=0.8),
    Case(name="fsdp, denoise, unclipped", task="denoise", optimizer="muon", clip=None),
    Case(name="fsdp, fine-tuning", task="classify", recompute="selective"),
    Case(name="fsdp, loss in chunks", max_seq_len=400, max_steps=6),
    Case(name="fsdp, loss in chunks by autograd", max_seq_len=400, max_steps=6, softcap=15.0),
    Case(name="fsdp, LoRA", task="classify", lora=True),
    Case(name="fsdp, compiled", compile=True, max_steps=6),
]

#: 12 steps at once, and in parts, of which the first ends after step 8 and has saved step 6.
LONG = Case(name="whole", optimizer="muon", ema=0.8, max_steps=12)
FIRST = replace(LONG, name="first part", folder="parts", crash_after=8)
PARTS = [
    LONG,
    FIRST,
    replace(LONG, name="second part", folder="parts", resume=True),
    replace(FIRST, name="left to one", folder="left"),
    replace(FIRST, name="ddp, first part", folder="mixed", strategy="ddp"),
    replace(LONG, name="ddp, then fsdp", folder="mixed", resume=True),
    replace(LONG, name="after a kill", folder="killed", resume=True),
    replace(LONG, name="after a kill while saving", folder="killed while saving", resume=True),
    replace(FIRST, name="slow disk", folder="slow", held="last.shards-2", held_until=8),
    replace(LONG, name="signal", folder="signal", held="last.shards-2", held_until=8, signal_at=8),
    replace(LONG, name="after the signal", folder="signal", resume=True),
    replace(LONG, name="full disk", folder="full", full_after=4),
    replace(LONG, name="full at the end", folder="full at the end", full_after=10),
    replace(LONG, name="damaged", folder="whole", resume=True, harm="damaged"),
    replace(LONG, name="missing", folder="whole", resume=True, harm="missing"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def losses(folder: Path) -> dict[str, Losses]:
    killed = replace(LONG, name="killed", kill_after=8)
    run_together([killed], folder, n_processes=2)
    run_together([replace(killed, name="killed while saving", held="last.shards-2")], folder, n_processes=2)
    return run_together([*CASES, *PARTS], folder, n_processes=2)


def assert_equal(found: Losses, expected: Losses) -> None:
    assert len(found.train) == len(expected.train) > 0
    assert found.train == pytest.approx(expected.train, rel=1e-5)
    assert found.validation == pytest.approx(expected.validation, rel=1e-5)
    assert found.gradient == pytest.approx(expected.gradient, rel=1e-3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_processes_have_the_losses_of_one(case: Case, losses: dict[str, Losses], tmp_path: Path) -> None:
    assert_equal(losses[case.name], fit(case.alone(), tmp_path))


def test_a_sharded_run_that_was_interrupted_is_the_same_run_bit_for_bit(
    losses: dict[str, Losses], folder: Path
) -> None:
    whole, first, second = (losses[name] for name in ("whole", "first part", "second part"))
    assert first.train[:6] + second.train == whole.train
    for name in ("last.ckpt", "best.ckpt"):
        assert differences(checkpoint(folder / "whole", name), checkpoint(folder / "parts", name)) == []


def test_a_sharded_run_of_which_a_process_was_killed_is_the_same_run_bit_for_bit(
    losses: dict[str, Losses], folder: Path
) -> None:
    rest = losses["after a kill"].train
    assert len(rest) in (6, 9)  # step 6 was being saved, or had been
    assert rest == losses["whole"].train[-len(rest) :]
    assert differences(checkpoint(folder / "whole"), checkpoint(folder / "killed")) == []


def test_training_goes_on_while_shards_are_written_and_what_is_saved_is_what_there_was(
    losses: dict[str, Losses], folder: Path
) -> None:
    assert losses["slow disk"].before_held == [1, 2, 3, 4, 5, 6, 7, 8]
    assert checkpoint(folder / "slow")["global_step"] == 6
    assert differences(checkpoint(folder / "left"), checkpoint(folder / "slow")) == []


def test_a_run_killed_while_a_checkpoint_is_written_resumes_from_the_one_before(
    losses: dict[str, Losses], folder: Path
) -> None:
    assert losses["after a kill while saving"].train == losses["whole"].train[3:]
    assert differences(checkpoint(folder / "whole"), checkpoint(folder / "killed while saving")) == []


def test_a_signal_waits_for_the_pending_checkpoint_and_saves_the_step(losses: dict[str, Losses]) -> None:
    assert losses["signal"].before_held[-1] == 8
    assert losses["signal"].error.startswith("stopped by SIGTERM after step 8 of 12, which was saved")
    assert losses["after the signal"].train == losses["whole"].train[8:]


def test_a_save_that_fails_in_the_background_ends_training_at_the_next_step_and_keeps_the_old_one(
    losses: dict[str, Losses], folder: Path
) -> None:
    assert 6 <= len(losses["full disk"].train) <= 8
    assert "cannot write" in losses["full disk"].error
    assert "best.shards-1 (File too large)" in losses["full disk"].error
    assert checkpoint(folder / "full")["global_step"] == 3


def test_a_save_that_fails_at_the_end_of_training_is_reported(
    losses: dict[str, Losses], folder: Path
) -> None:
    assert len(losses["full at the end"].train) == 12
    assert "(File too large)" in losses["full at the end"].error
    assert checkpoint(folder / "full at the end")["global_step"] == 9


def test_of_each_sharded_checkpoint_one_folder_is_kept(losses: dict[str, Losses], folder: Path) -> None:
    assert losses
    for name in ("last.ckpt", "best.ckpt"):
        assert len(folders_of(folder / "parts" / name)) == 1
    assert not list(folder.rglob("*.draft"))


def test_fsdp_resumes_what_ddp_has_saved(losses: dict[str, Losses], folder: Path) -> None:
    steps = losses["ddp, first part"].train[:6] + losses["ddp, then fsdp"].train
    assert steps == pytest.approx(losses["whole"].train, rel=1e-5)


def test_one_process_resumes_what_two_with_fsdp_have_saved_and_leaves_no_shards(
    losses: dict[str, Losses], folder: Path, tmp_path: Path
) -> None:
    assert len(losses["left to one"].train) == 8
    shutil.copytree(folder / "left", tmp_path, dirs_exist_ok=True)
    rest = fit(replace(LONG, strategy="auto", resume=True), tmp_path)
    assert rest.train == pytest.approx(losses["whole"].train[6:], rel=1e-5)
    assert not folders_of(tmp_path / "last.ckpt")


def test_a_shard_that_is_damaged_or_missing_is_named_by_all_processes(losses: dict[str, Losses]) -> None:
    for harm in ("damaged", "missing"):
        assert f"__1_0.distcp is {harm}" in losses[harm].error


def test_a_shard_that_is_damaged_or_missing_is_named_where_one_process_reads(
    losses: dict[str, Losses], folder: Path, tmp_path: Path
) -> None:
    assert losses
    shutil.copytree(folder / "parts", tmp_path, dirs_exist_ok=True)
    (shards,) = folders_of(tmp_path / "last.ckpt")
    data = bytearray((shards / "__0_0.distcp").read_bytes())
    data[len(data) // 2] ^= 1
    (shards / "__0_0.distcp").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp is damaged"):
        checkpoint(tmp_path)
    (shards / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp is missing"):
        checkpoint(tmp_path)
    shutil.rmtree(shards)
    with pytest.raises(CheckpointError, match=r"shards-\d+, a part of last\.ckpt, is missing"):
        checkpoint(tmp_path)


def test_four_processes_share_out_the_weights_within_two_machines_each(tmp_path: Path) -> None:
    case = Case(name="hsdp", strategy="hsdp", optimizer="muon", ema=0.8, max_steps=8)
    found = run_together([case], tmp_path, n_processes=4, n_nodes=2)["hsdp"]
    assert_equal(found, fit(case.alone(), tmp_path / "alone"))
