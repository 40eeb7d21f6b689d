"""How long is trained where nobody says it."""

from dataclasses import replace

import pytest

from pipeline.config.compose import compose_unchecked
from pipeline.errors import ConfigError
from pipeline.machine.options import TrainerOptions
from pipeline.training.budget import MOST_STEPS, describe_budget, is_open, with_budget

OPEN = TrainerOptions(accelerator="cpu", devices=1, batch_size=16)


@pytest.mark.parametrize(
    ("n_rows", "n_classes", "least", "steps"),
    [
        (80, 2, 600, 600),
        (3_200, 2, 600, 2_000),
        (3_200, 300, 600, 3_000),
        (3_200, 2, 2_500, 2_500),
        (1_000_000, 2, 600, MOST_STEPS),
    ],
)
def test_the_steps_follow_from_rows_and_classes_between_a_floor_and_a_ceiling(
    n_rows: int, n_classes: int, least: int, steps: int
) -> None:
    found = with_budget(OPEN, n_rows=n_rows, n_classes=n_classes, least_steps=least)
    assert found.n_steps == steps
    assert found.plateau is not None
    shorter = with_budget(OPEN, n_rows=n_rows, n_classes=n_classes, least_steps=least, epochs=3).n_steps
    assert shorter == (MOST_STEPS if n_rows == 1_000_000 else max(600, least, 10 * n_classes))
    assert "and 30 minutes (trainer.time_budget_s=...)" in describe_budget(found, n_rows)


def test_what_is_given_stays_and_larger_steps_are_fewer() -> None:
    given = replace(OPEN, patience=7, val_every_steps=5, time_budget_s=9.0, batch_size=8, accumulate=4)
    found = with_budget(given, n_rows=32_000, n_classes=0, least_steps=600)
    assert found == replace(given, max_steps=6_000)
    assert with_budget(given, n_rows=6_400, n_classes=0, least_steps=600).n_steps == 2_000


@pytest.mark.slow
def test_steps_that_nobody_gave_are_by_the_data_but_the_story_worlds_recipes_have_their_own() -> None:
    recipes = {"classify": 600, "chat": 600, "summarize": 600, "translate": 1500, "qa": 2000}
    found = {name: compose_unchecked("finetune", [f"task={name}"]).trainer.max_steps for name in recipes}
    assert found == recipes
    own = compose_unchecked("finetune", ["task=qa", "data=files", "data.train=x"]).trainer
    assert is_open(TrainerOptions(**{key: own[key] for key in own if key != "_target_"}))
    assert not is_open(replace(OPEN, max_epochs=2.0))
    with pytest.raises(ConfigError, match=r"trainer\.max_steps is null; expected a number of steps"):
        _ = OPEN.n_steps
