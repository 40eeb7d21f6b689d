"""The script that says what works on several GPUs, on the CPU."""

from typing import get_args, get_type_hints

import pytest
import torch

from pipeline.machine.options import TrainerOptions
from scripts.smoke_gpu import CommandError, Smoke, checks, main


def test_without_a_gpu_it_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("make smoke-gpu ARGS=--cpu")


def test_every_strategy_of_the_trainer_is_tried_where_there_are_two_devices() -> None:
    strategies = {*get_args(get_type_hints(TrainerOptions)["strategy"])} - {"auto"}
    assert strategies <= {check.name for check in checks(2)}
    assert not strategies & {check.name for check in checks(1)}


@pytest.mark.parametrize(("loss", "works"), [(2.00001, True), (2.1, False), (float("nan"), False)])
def test_a_loss_that_is_another_is_what_does_not_work(
    loss: float, works: bool, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    smoke = Smoke(on_cpu=True, n_devices=2, folder=tmp_path_factory.getbasetemp())
    smoke._try("ddp", lambda: smoke._near(loss, 2.0, 1e-4, "two devices have the loss of one"))
    assert capsys.readouterr().out.startswith("ok" if works else "FAILED")
    assert smoke.n_failed == (not works)


def test_a_command_that_fails_is_reported_with_its_error(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    smoke = Smoke(on_cpu=True, n_devices=2, folder=tmp_path_factory.mktemp("smoke"))
    with pytest.raises(CommandError, match=r"pretrain ended with 2: error: .*smal"):
        smoke._call("pretrain", "size=smal")


@pytest.mark.slow
def test_two_processes_of_the_cpu_have_the_loss_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cpu", "--only", "ddp"]) == 0
    said = capsys.readouterr().out
    assert "one device trains: loss" in said
    assert "2 devices with ddp have the loss of one" in said
    assert said.splitlines()[-1] == "everything works"
