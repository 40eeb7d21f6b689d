"""Schedules are functions of the step with a known start, end and slope."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modules.schedules import WSD, Constant, Cosine, Linear, Schedule

DECAYING = [Cosine, Linear, WSD]
ALL = [*DECAYING, Constant]

runs = st.tuples(st.integers(1, 300), st.floats(0.0, 0.9))


@pytest.mark.slow
@pytest.mark.parametrize("schedule_class", ALL)
@given(run=runs)
def test_every_factor_lies_above_0_and_up_to_1(
    schedule_class: type[Schedule], run: tuple[int, float]
) -> None:
    max_steps, fraction = run
    schedule = schedule_class(warmup_fraction=fraction)
    assert all(0.0 < schedule.factor(step, max_steps) <= 1.0 for step in range(max_steps))


@pytest.mark.parametrize("schedule_class", ALL)
@given(run=runs)
def test_no_step_changes_the_factor_faster_than_warm_up_and_decay_do(
    schedule_class: type[Schedule], run: tuple[int, float]
) -> None:
    max_steps, fraction = run
    schedule = schedule_class(warmup_fraction=fraction)
    warmup = schedule.resolve_warmup_steps(max_steps)
    decay_steps = max(max_steps - warmup, 1) * (0.2 if schedule_class is WSD else 1.0)
    steepest = max(1 / max(warmup, 1), math.pi / 2 / max(round(decay_steps), 1)) + 1e-9
    factors = [schedule.factor(step, max_steps) for step in range(max_steps + 1)]
    jumps = [abs(after - before) for before, after in pairwise(factors)]
    assert max(jumps) <= steepest


@pytest.mark.parametrize("schedule_class", DECAYING)
@given(run=runs, final_ratio=st.floats(0.0, 1.0))
def test_a_decay_ends_at_the_final_ratio_and_stays_there(
    schedule_class: type[Cosine], run: tuple[int, float], final_ratio: float
) -> None:
    max_steps, fraction = run
    schedule = schedule_class(warmup_fraction=fraction, final_ratio=final_ratio)
    assert schedule.factor(max_steps, max_steps) == pytest.approx(final_ratio)
    assert schedule.factor(2 * max_steps, max_steps) == pytest.approx(final_ratio)


@pytest.mark.parametrize("schedule_class", ALL)
def test_warm_up_starts_near_0_but_not_at_0_and_reaches_1_at_its_end(schedule_class: type[Schedule]) -> None:
    schedule = schedule_class(warmup_steps=10)
    assert [schedule.factor(step, 100) for step in range(10)] == pytest.approx(
        [(i + 1) / 10 for i in range(10)]
    )
    assert schedule.factor(10, 100) == 1.0


@pytest.mark.parametrize("schedule_class", ALL)
def test_without_warm_up_the_first_step_has_the_full_learning_rate(schedule_class: type[Schedule]) -> None:
    assert schedule_class(warmup_steps=0).factor(0, 100) == 1.0


@pytest.mark.parametrize("schedule_class", ALL)
def test_a_fraction_of_warm_up_is_that_part_of_the_run(schedule_class: type[Schedule]) -> None:
    by_fraction, by_steps = schedule_class(warmup_fraction=0.1), schedule_class(warmup_steps=20)
    assert [by_fraction.factor(i, 200) for i in range(200)] == [by_steps.factor(i, 200) for i in range(200)]


def test_steps_of_warm_up_go_before_its_fraction() -> None:
    assert Linear(warmup_steps=5, warmup_fraction=0.5).resolve_warmup_steps(100) == 5


@pytest.mark.parametrize("schedule_class", ALL)
def test_a_run_shorter_than_its_warm_up_only_warms_up(schedule_class: type[Schedule]) -> None:
    schedule = schedule_class(warmup_steps=100)
    assert [schedule.factor(step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_cosine_is_half_way_down_in_the_middle_of_its_decay() -> None:
    assert Cosine(warmup_steps=0, final_ratio=0.2).factor(50, 100) == pytest.approx(0.6)
    assert Cosine(warmup_steps=0).factor(25, 100) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_linear_takes_equal_steps() -> None:
    assert [Linear(warmup_steps=0).factor(i, 4) for i in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_wsd_stays_at_1_until_its_decay() -> None:
    schedule = WSD(warmup_steps=0, decay_fraction=0.4)
    assert [schedule.factor(i, 5) for i in range(6)] == [1.0, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_a_schedule_drives_torchs_lambda_lr() -> None:
    schedule = Cosine(warmup_steps=2)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.factor(step, 10))
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [2.0 * schedule.factor(step, 10) for step in range(10)]


@pytest.mark.parametrize(
    ("schedule_class", "option", "value"),
    [
        (Constant, "warmup_steps", -1),
        (Linear, "warmup_fraction", 1.0),
        (Cosine, "final_ratio", 1.5),
        (WSD, "decay_fraction", 0.0),
    ],
)
def test_an_impossible_option_is_refused_with_its_value(
    schedule_class: type[Schedule], option: str, value: float
) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}; expected .+\nhint: "):
        schedule_class(**{option: value})


@pytest.mark.parametrize("step", [50, 333, 1000])
def test_a_run_that_ends_early_decays_from_there_on_and_one_that_decays_already_ends(step: int) -> None:
    wsd = WSD(warmup_steps=0)
    end = wsd.end_from(step)
    assert [wsd.factor(at, end) for at in (0, step - 1)] == [1.0, 1.0]
    assert 1.0 > wsd.factor(step + 2, end) > wsd.factor(end - 1, end) > 0.0
    assert {other.end_from(step) for other in (Linear(), Cosine(), WSD(decay_fraction=1.0))} == {step}
