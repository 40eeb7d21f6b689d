import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile

from benchmarks import step_profile
from benchmarks.profile import main
from benchmarks.step_profile import KINDS, N_WARMUP_STEPS, PHASES, REST, StepProfile, kinds
from modules.heads import LMHead
from modules.losses import token_loss
from tests.pipeline.toy import ToyTraining

QUICK = ("debug=quick", "tokenizer.vocab_size=400", "trainer.precision=fp32", "--steps", "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("trainer.time_budget_s=0.001",),
        ("--stage", "finetune-classify", "init_from=none", "trainer.max_epochs=1"),
    ],
)
def test_the_time_of_a_step_is_told_by_phase_and_by_kind_and_no_run_is_left(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, *QUICK]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert set(found["phases"]) == set(PHASES)
    assert set(found["kinds"]) <= {*KINDS, REST}
    for times in (found["phases"], found["kinds"]):
        assert sum(times.values()) == pytest.approx(1, abs=0.01)
    assert "tokens per second in fp32" in printed.err
    assert list((tmp_path / "runs").glob("*/*")) == []


def test_the_loss_includes_its_products_and_its_softmax() -> None:
    hidden, head = torch.randn(2, 8, 16, requires_grad=True), LMHead(torch.nn.Embedding(100, 16))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        token_loss(hidden, head, torch.randint(100, (2, 8)))[0].backward()
        torch.softmax(hidden @ hidden.mT, dim=-1)
    found = kinds(profiler)
    assert found["loss"] > 0
    assert found["attention"] > 0
    assert "matrix products" not in found


class Clock(Callback):
    """A clock on which a batch takes 1 s, its forward pass 2 s, the backward pass 4 s, and the rest 8 s."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += 1

    def on_before_backward(self, *_: Any) -> None:
        self.now += 2

    def on_after_backward(self, *_: Any) -> None:
        self.now += 4

    def on_train_batch_end(self, *_: Any) -> None:
        self.now += 8


@pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning")
def test_the_steps_after_the_warm_up_are_timed_phase_by_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, steps = Clock(), StepProfile(2)
    monkeypatch.setattr(step_profile, "time", clock)
    ToyTraining(
        folder=tmp_path, accumulate=3, max_steps=N_WARMUP_STEPS + 4, extra=(clock, steps), val_every_steps=9
    ).fit()
    assert list(steps.phases.values()) == [6.0, 12.0, 24.0, 48.0]
    assert steps.n_tokens > 0


def test_a_wrong_key_is_answered_as_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size=smal"]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["evaluate", "finetune", "finetune-classfy"])
def test_a_stage_that_does_not_train_is_refused(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["--stage", stage])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    assert stage.rpartition("-")[2] in capsys.readouterr().err
