"""Layers are compiled where that was measured to be faster, and never where it changes the gradients."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modules import compiling as modules_compiling
from pipeline.config.compose import compose
from pipeline.config.plain import Config
from pipeline.machine import compiling
from pipeline.machine.choice import choose_for_machine

CAUSAL = ("size=nano", "trainer.batch_size=2", "trainer.max_steps=100", "trainer.devices=1")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compiling.CACHE_VARIABLE, raising=False)


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """All trainings are long."""
    monkeypatch.setattr(compiling, "LONG_S", 0.0)


def composed(tmp_path: Path, *words: str, stage: str = "pretrain") -> Config:
    return compose(stage, [f"cache_dir={tmp_path}", *words])


def compile_to(monkeypatch: pytest.MonkeyPatch, apply: Callable[..., Any]) -> None:
    """`torch.compile` gives this in place of the function that applies a layer."""
    monkeypatch.setattr(modules_compiling, "_compiled_apply", lambda: apply)


def take(monkeypatch: pytest.MonkeyPatch, *, eager_s: float, compiled_s: float) -> None:
    """A pass takes this long."""

    def seconds(layer: Any) -> float:
        return compiled_s if layer.model.stack.compiled else eager_s

    monkeypatch.setattr(compiling._OneLayer, "seconds", seconds)


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm"])
@pytest.mark.parametrize(("speedup", "used"), [(1.2, True), (1.01, False), (0.8, False)])
def test_layers_are_compiled_if_that_is_faster(
    task: str,
    speedup: float,
    used: bool,
    long: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compile_to(monkeypatch, modules_compiling._apply)
    take(monkeypatch, eager_s=1.0, compiled_s=1 / speedup)
    config = composed(tmp_path, *CAUSAL, f"task={task}", "trainer.precision=fp32")
    before = torch.get_rng_state()
    assert choose_for_machine(config)["trainer.compile"] is used
    assert torch.equal(torch.get_rng_state(), before)
    said = " ".join(capsys.readouterr().err.split())
    assert f"makes layers {speedup:.2f} times as fast, so they are {'' if used else 'not '}compiled" in said


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_layers_that_compute_something_else_are_not_used(
    dropout: float,
    long: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    take(monkeypatch, eager_s=1.0, compiled_s=0.5)
    config = composed(tmp_path, *CAUSAL, f"model.backbone.layer.dropout={dropout}", "trainer.precision=fp32")

    def wrong(layer: Any, recompute: Any, x: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        return modules_compiling._apply(layer, recompute, x + 0.01 * x.flip(-1), *inputs, **options)

    compile_to(monkeypatch, wrong)
    assert not compiling.is_faster_compiled(config)
    assert "changes gradients by 0.0" in capsys.readouterr().err
    compile_to(monkeypatch, modules_compiling._apply)
    assert compiling.is_faster_compiled(config)


def test_without_a_compiler_training_goes_on_without(
    long: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*inputs: Any, **options: Any) -> None:
        raise RuntimeError("no working C++ compiler\nand much more")

    compile_to(monkeypatch, fail)
    assert not compiling.is_faster_compiled(composed(tmp_path, *CAUSAL, "trainer.precision=fp32"))
    said = " ".join(capsys.readouterr().err.split())
    assert "is not possible here (no working C++ compiler), so layers are not compiled" in said


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("pretrain", CAUSAL),  # short
        ("pretrain", (*CAUSAL, "task=denoise", "trainer.max_steps=100000000")),
        ("pretrain", (*CAUSAL, "trainer.devices=2", "trainer.max_steps=100000000")),
        ("finetune", ("task=classify", "init_from=none", "size=nano", "trainer.max_steps=100000000")),
    ],
)
def test_nothing_is_compiled_where_it_cannot_pay(
    stage: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "LONG_S", 600.0)
    monkeypatch.setattr(compiling, "_is_faster", pytest.fail)
    assert choose_for_machine(composed(tmp_path, *words, stage=stage))["trainer.compile"] is False


def test_what_is_typed_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pipeline.machine.choice.is_faster_compiled", pytest.fail)
    assert "trainer.compile" not in choose_for_machine(composed(tmp_path, *CAUSAL, "trainer.compile=true"))


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512"])
def test_each_set_of_instructions_has_its_own_cache(
    instructions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    for _ in range(2):
        compiling.use_own_cache(tmp_path)
        assert os.environ[compiling.CACHE_VARIABLE] == str(tmp_path / "compiled" / instructions.lower())
    monkeypatch.setenv(compiling.CACHE_VARIABLE, str(tmp_path / "mine"))
    for _ in range(2):
        compiling.use_own_cache(tmp_path)
        assert os.environ[compiling.CACHE_VARIABLE] == str(tmp_path / "mine" / instructions.lower())
