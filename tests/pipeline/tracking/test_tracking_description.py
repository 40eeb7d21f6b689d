import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.tracking.describe import describe, final_values
from pipeline.tracking.figures import _panels, draw_learning_curves, interpolate, read_curves
from pipeline.tracking.provenance import collect_provenance
from pipeline.tracking.redaction import Redactor
from pipeline.tracking.spool import Spool
from pipeline.tracking.system import parse_nvidia_smi

CONFIG = {
    "model": {
        "backbone": {"_target_": "modules.transformer.Decoder", "n_layers": 4, "layer": {"d_model": 128}}
    },
    "data": {"_target_": "datamodules.storyworld.StoryWorld"},
    "optimizer": {"_target_": "modules.optim.Muon", "lr": 0.003},
    "trainer": {"max_steps": 500},
}


def test_a_stranger_learns_what_was_trained_on_what_and_how_well() -> None:
    text = describe(
        "pretrain",
        config=CONFIG,
        datasets=["train: storyworld (0123)"],
        results={"val/loss": 1.23456},
        provenance={
            "git_commit": "abcdef0123456789",
            "git_dirty": "true",
            "command": "python -m pipeline pretrain",
        },
    )
    for part in [
        "**pretrain** of a Decoder on StoryWorld with Muon.",
        "| val/loss | 1.235 |",
        "train: storyworld",
        "| model.backbone.layer.d_model | 128 |",
        "| optimizer.lr | 0.003 |",
        "`abcdef012345` with uncommitted changes",
        "python -m pipeline pretrain",
    ]:
        assert part in text


@pytest.mark.parametrize("train", ["/home/me/my data/reviews.csv", ["a/reviews.csv"]])
def test_the_description_names_the_file_that_was_learnt_from(train: Any) -> None:
    data = {"_target_": "datamodules.corpus.Files", "train": train}
    text = describe("finetune", config={**CONFIG, "data": data}, datasets=[], results={}, provenance={})
    assert text.startswith("**finetune** of a Decoder on reviews.csv with Muon.")
    encoder = {"model": {"backbone": {"_target_": "modules.transformer.Encoder"}}}
    text = describe("finetune", config={**CONFIG, **encoder}, datasets=[], results={}, provenance={})
    assert text.startswith("**finetune** of an Encoder on")


def test_a_run_ends_with_what_was_tested_or_else_with_its_best_validation() -> None:
    validated = {"val/loss": 2.0, "val/loss_low": 1.5, "val/loss_high": 2.5}
    assert final_values(validated) == {"best_val_loss": 2.0}
    assert final_values({**validated, "test/f1": 0.5}) == {"test_f1": 0.5}
    assert final_values({"vocab_size": 600.0}) == {"vocab_size": 600.0}


def test_provenance_tells_the_commit_and_whether_the_code_was_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    def facts() -> dict[str, str]:
        argv = ["/x/pipeline/__main__.py", "pretrain", "hf_token=abc"]
        return collect_provenance(tmp_path, argv=argv, seed=3, redactor=Redactor({}))

    git("init")
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-m", "first")
    clean = facts()
    assert len(clean["git_commit"]) == 40
    assert clean["git_dirty"] == "false"
    assert clean["command"] == "python -m pipeline pretrain hf_token=<redacted>"
    assert clean["seed"] == "3"
    (tmp_path / "code.py").write_text("a = 2\n")
    changed = facts()
    (tmp_path / "code.py").write_text("a = 3\n")
    assert changed["git_dirty"] == "true"
    assert changed["git_diff_sha256"] != facts()["git_diff_sha256"]


def test_files_that_git_does_not_track_are_no_changes_and_those_of_code_are_counted(tmp_path: Path) -> None:
    def facts() -> dict[str, str]:
        return collect_provenance(tmp_path, argv=["x"], seed=None, redactor=Redactor({}))

    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for arguments in (("init",), ("commit", "--allow-empty", "-m", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)
    (tmp_path / "my text.txt").touch()
    assert (facts()["git_dirty"], facts()["git_untracked_code"]) == ("false", "0")
    assert "git_diff_sha256" not in facts()
    (tmp_path / "new task.py").touch()
    assert (facts()["git_dirty"], facts()["git_untracked_code"]) == ("false", "1")
    assert "git_diff_sha256" in facts()


def test_provenance_of_a_folder_without_git_says_so(tmp_path: Path) -> None:
    facts = collect_provenance(tmp_path, argv=["x"], seed=None, redactor=Redactor({}))
    assert facts["git_commit"] == "none"
    assert "seed" not in facts


def test_tokens_between_and_beyond_what_was_logged_are_on_straight_lines() -> None:
    found = interpolate(np.array([0, 2, 4, 7, 10, 20]), [(4, 100.0), (10, 400.0)])
    np.testing.assert_allclose(found, [0, 50, 100, 250, 400, 800])


def test_the_learning_curve_is_drawn_over_tokens_from_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "points.jsonl")
    for step in range(1, 6):
        spool.append(
            {"kind": "metrics", "step": step, "values": {"train/loss": 5 / step, "tokens_seen": 64 * step}}
        )
    spool.append({"kind": "metrics", "step": 5, "values": {"val/loss": 1.5, "val/bits_per_byte": 0.7}})
    spool.append({"kind": "metrics", "step": 5, "values": {"train/loss": 0.5}})  # told again after a resume
    assert read_curves(tmp_path / "points.jsonl")["train/loss"][-1] == (5, 0.5)
    assert draw_learning_curves(tmp_path / "points.jsonl", tmp_path / "figures" / "curve.png")
    assert (tmp_path / "figures" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_fine_tuning_shows_its_own_metrics_beside_the_loss(tmp_path: Path) -> None:
    curves = {
        "train/loss": [],
        "val/loss": [],
        "val/accuracy": [],
        "val/accuracy_low": [],
        "val/perplexity": [],
    }
    assert _panels(curves) == {
        "loss (nats per token)": {"train": "train/loss", "validation": "val/loss"},
        "validation": {"accuracy": "val/accuracy"},
    }


def test_without_a_loss_there_is_no_picture(tmp_path: Path) -> None:
    Spool(tmp_path / "points.jsonl").append({"kind": "metrics", "step": 1, "values": {"rows": 1.0}})
    assert not draw_learning_curves(tmp_path / "points.jsonl", tmp_path / "curve.png")


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    found = parse_nvidia_smi("0, 87, 40000, 80000, 350.5, 61\n1, [N/A], 10, 80000, [N/A], 40\nbroken\n")
    assert found["gpu_0_utilization_percentage"] == 87
    assert found["gpu_0_memory_usage_percentage"] == 50
    assert "gpu_1_utilization_percentage" not in found
    assert found["gpu_1_temperature_celsius"] == 40
