"""The estimate as a user sees it: verdict, a remedy that works when pasted, and keys that are checked."""

import re
from collections.abc import Sequence

import pytest

from pipeline.config.compose import compose
from pipeline.errors import ConfigError, UserError
from pipeline.estimate.devices import devices_of
from pipeline.estimate.estimation import Estimate, estimate_of
from pipeline.estimate.verdict import batch_advice, remedy, verdict
from pipeline.estimate.work import advised_batch_tokens
from pipeline.machine.accelerators import accelerator_called, accelerators, measured_share
from pipeline.machine.options import TrainerOptions
from pipeline.words import size_words


def estimate(*words: str) -> Estimate:
    return estimate_of(compose("estimate", words))


def pasted(text: str) -> Sequence[str]:
    """The settings that a remedy begins with."""
    return re.findall(r"\S+=\S+", text)


@pytest.mark.slow
def test_the_tutorials_175_billion_parameters_on_1024_gpus_fit_once_the_remedy_is_pasted() -> None:
    words = ["model=gpt2", "size=gpt3", "tokenizer.vocab_size=50257", "gpus=1024xh100"]
    planned = estimate(*words, "trainer.batch_size=1", "estimate.strategy=ddp")
    assert planned.n_parameters == pytest.approx(175e9, rel=0.01)
    assert planned.work.flops_per_token == pytest.approx(6 * planned.n_parameters, rel=0.05)
    assert not planned.fits
    after = estimate(*words, "trainer.batch_size=1", *pasted(remedy(planned)))
    assert after.fits
    assert after.peak_bytes < 80e9


def test_175_billion_parameters_take_the_34_days_that_were_measured() -> None:
    """Narayanan et al. 2021, section 5.1: 300e9 tokens on 1,024 A100 in 34 days."""
    share = measured_share(accelerators()["a100"], 174.6e9)
    seconds = 6 * 174.6e9 * 300e9 / (1024 * accelerators()["a100"].flops_per_s * share.mfu)
    assert seconds / 86400 == pytest.approx(34, rel=0.02)


@pytest.mark.slow
def test_a_batch_that_is_too_large_is_cut_into_passes_with_the_same_rows_a_step() -> None:
    words = ["size=medium", "gpus=t4", "trainer.batch_size=1024"]
    planned = estimate(*words)
    assert not planned.fits
    assert "16.0 GB" in verdict(planned)
    settings = pasted(remedy(planned))
    after = estimate(*words, *settings)
    assert after.fits
    assert after.rows_per_step == planned.rows_per_step


def test_several_named_devices_work_together_as_the_trainer_does() -> None:
    options = TrainerOptions(devices=4)
    assert devices_of("h100", options).count == devices_of("4xh100", TrainerOptions()).count == 4
    with pytest.raises(ConfigError, match=r"gpus=8xh100 contradicts trainer.devices=4"):
        devices_of("8xh100", options)


@pytest.mark.parametrize("text", ["8xh10", "0xh100", "h100x8", ""])
def test_devices_that_nobody_knows_are_refused_with_those_that_are_known(text: str) -> None:
    with pytest.raises(ConfigError, match="one of b200, h200, h100") as refused:
        devices_of(text, TrainerOptions())
    assert "h100" in str(refused.value)


def test_a_task_that_learns_from_labelled_rows_is_refused() -> None:
    with pytest.raises(UserError, match="learns from labelled rows"):
        estimate("task=classify")


def test_the_driver_s_name_finds_the_accelerator_that_fits_best() -> None:
    found = {
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H100 PCIe": "h100-pcie",
        "NVIDIA A100-SXM4-40GB": "a100-40gb",
        "NVIDIA A100-SXM4-80GB": "a100",
        "NVIDIA L40S": "l40s",
        "NVIDIA L4": "l4",
    }
    assert {name: one.name for name in found if (one := accelerator_called(name))} == found
    assert accelerator_called("GeForce 8800") is None


def test_every_accelerator_has_a_measured_share_and_every_price_a_source_and_a_day() -> None:
    for one in accelerators().values():
        assert 0 < measured_share(one, 1e9).mfu < 1
        if one.usd_per_hour is not None:
            assert re.search(r"read 20\d\d-\d\d-\d\d$", one.price_source or "")


def test_the_advised_batch_is_the_measured_one_at_its_tokens_and_none_for_few() -> None:
    assert advised_batch_tokens(1.16e9) == 2**19
    assert advised_batch_tokens(1e6) is None


def test_sizes_have_three_digits_and_a_unit() -> None:
    shown = [size_words(size) for size in (512e3, 1.5e6, 36.84e9, 697e9, 3281e9)]
    assert shown == ["512 kB", "1.50 MB", "36.8 GB", "697 GB", "3.28 TB"]


@pytest.mark.slow
def test_energy_and_money_follow_from_hours_power_and_price() -> None:
    planned = estimate("size=nano", "gpus=8xh100", "estimate.mfu=0.1", "estimate.tokens=1000000000000")
    cost = planned.costs["estimate.tokens"]
    hours = 1e12 * planned.work.flops_per_token / (8 * 989e12 * 0.1) / 3600
    assert cost.hours == pytest.approx(hours)
    assert cost.usd == pytest.approx(hours * 8 * 3.99)
    assert cost.kwh == pytest.approx(hours * 8 * 0.7)
    assert "efficient" in batch_advice(planned)
