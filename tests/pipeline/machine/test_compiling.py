"""Layers are compiled where that was measured to be faster, and never where it changes the gradients."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modules import compiling as modules_compiling
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.errors import ConfigError
from pipeline.machine import compiling
from pipeline.machine.choice import choose_for_machine
from pipeline.machine.devices import check_device
from pipeline.machine.options import TrainerOptions

CAUSAL = ("size=nano", "trainer.batch_size=2", "trainer.max_steps=100", "trainer.devices=1")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiling.CACHE_VARIABLE, "")  # so that it is restored
    monkeypatch.setattr(compiling, "CACHE_OF_USER", None)


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
    """A pass takes this long, in any precision."""

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


@pytest.mark.parametrize("kind", [RuntimeError, OSError, ImportError])
def test_without_a_compiler_training_goes_on_without(
    kind: type[Exception],
    long: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*inputs: Any, **options: Any) -> None:
        raise kind("no working C++ compiler\nand much more")

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
        ("pretrain", (*CAUSAL, "trainer.max_epochs=1000000")),
        ("pretrain", (*CAUSAL, "trainer.max_steps=100000000", "trainer.time_budget_s=60")),
        ("pretrain", (*CAUSAL, "trainer.max_steps=100000000", "tracking.tags={sweep_id: x}")),
        ("finetune", ("task=classify", "init_from=none", "size=nano", "trainer.max_steps=100000000")),
    ],
)
def test_nothing_is_compiled_where_it_cannot_pay(
    stage: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "LONG_S", 600.0)
    monkeypatch.setattr(compiling, "_speedup", pytest.fail)
    assert choose_for_machine(composed(tmp_path, *words, stage=stage))["trainer.compile"] is False


def test_what_is_typed_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pipeline.machine.choice.is_faster_compiled", pytest.fail)
    assert "trainer.compile" not in choose_for_machine(composed(tmp_path, *CAUSAL, "trainer.compile=true"))


def test_the_gradient_of_a_layer_in_float16_is_that_in_float32_but_for_rounding(tmp_path: Path) -> None:
    config = composed(tmp_path, *CAUSAL, "trainer.precision=fp32")
    options = construct(config.trainer, TrainerOptions)
    layer = compiling._OneLayer.build(config, options, torch.device("cpu"))
    exact = layer.gradient()
    difference = (replace(layer, precision="fp16").gradient() - exact).norm() / exact.norm()
    assert 0 < difference < compiling.TOLERANCES["fp16"]


def test_compiled_layers_without_a_compiler_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/no/such/compiler"))
    with pytest.raises(ConfigError, match="PyTorch finds no C\\+\\+ compiler"):
        check_device(TrainerOptions(compile=True, accelerator="cpu"))
    check_device(TrainerOptions(compile=False, accelerator="cpu"))


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512"])
def test_each_set_of_instructions_and_each_cache_has_its_own_folder(
    instructions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    for cache in (tmp_path / "first", tmp_path / "second"):
        compiling.use_own_cache(cache)
        assert os.environ[compiling.CACHE_VARIABLE] == str(cache / "compiled" / instructions.lower())
    monkeypatch.setattr(compiling, "CACHE_OF_USER", str(tmp_path / "mine"))
    compiling.use_own_cache(tmp_path / "first")
    assert os.environ[compiling.CACHE_VARIABLE] == str(tmp_path / "mine" / instructions.lower())
