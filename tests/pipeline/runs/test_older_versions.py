"""Bundles and runs that version 0.1 wrote, before its modules moved."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.compare.facts import read_measurement
from pipeline.config.targets import MOVED, target_of
from pipeline.runs.bundle import load_bundle
from pipeline.runs.find import find_bundle
from pipeline.runs.folders import list_runs
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.classify import TextClassification
from tests.commands import ROOT

OLD = ROOT / "tests" / "fixtures" / "version_0_1"


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "runs"))


def test_a_pretrained_bundle_of_before_loads_and_reads_text(runs_dir: Path) -> None:
    bundle = load_bundle(find_bundle("old-pretrain", runs_dir))
    assert isinstance(bundle.task, CausalLM)
    ids = torch.tensor([[bundle.tokenizer.bos_id, *bundle.tokenizer.encode("One sunny morning")]])
    with torch.no_grad():
        assert bundle.model({"input_ids": ids}).isfinite().all()


def test_a_fine_tuned_bundle_of_before_loads_and_answers(runs_dir: Path) -> None:
    bundle = load_bundle(find_bundle("old-classify", runs_dir))
    assert isinstance(bundle.task, TextClassification)
    (answer,) = bundle.task.predict(bundle.model, bundle.tokenizer, [{"text": "Karl has it."}], batch_size=1)
    assert answer.text in bundle.task.label_names


def test_runs_of_before_are_listed_with_what_they_measured(runs_dir: Path) -> None:
    runs = {run.name: run for run in list_runs(runs_dir)}
    assert {name: run.record.status for name, run in runs.items()} == {
        "old-pretrain": "FINISHED",
        "old-classify": "FINISHED",
    }
    measured = read_measurement(runs["old-classify"].path)
    assert measured is not None
    recorded = json.loads((OLD / "old-classify" / "evaluation.json").read_text())
    assert measured.metrics["accuracy"].value == recorded["metrics"]["accuracy"]["value"]


@pytest.mark.parametrize("name", MOVED)
def test_a_class_is_found_by_its_name_of_before(name: str) -> None:
    assert target_of(name, "node") is target_of(MOVED[name], "node")
