"""How many processes of a CPU are accepted."""

import os

import pytest

from pipeline.errors import ConfigError
from pipeline.machine.devices import check_device
from pipeline.machine.options import TrainerOptions


@pytest.fixture(params=[1, 2, 16])
def n_cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of cores that may be used."""
    cores: int = request.param
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    return cores


def asked(n_devices: int) -> TrainerOptions:
    return TrainerOptions(accelerator="cpu", devices=n_devices)


def test_as_many_processes_as_cores_or_eight_are_accepted_and_more_are_refused(n_cores: int) -> None:
    most = max(8, n_cores)
    check_device(asked(most))
    with pytest.raises(ConfigError) as refused:
        check_device(asked(most + 1))
    assert f"trainer.devices={most + 1} would start {most + 1} processes" in refused.value.sentence
    assert f"where {n_cores} CPU core" in refused.value.sentence
    assert "leave out trainer.devices" in refused.value.remedy


def test_processes_of_a_launcher_are_not_counted_since_each_may_have_a_core_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "64", "LOCAL_WORLD_SIZE": "64", "RANK": "0"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7})
    check_device(TrainerOptions(accelerator="cpu"))


def test_a_system_that_knows_no_affinity_counts_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    check_device(asked(12))
    with pytest.raises(ConfigError, match="where 12 CPU cores"):
        check_device(asked(13))
