"""Imported weights are trained at rates that fit them, unless somebody chose others."""

from typing import Any

import pytest

from pipeline.config.compose import compose_unchecked
from pipeline.config.plain import Config, to_plain
from pipeline.runs.rates import with_fitting_rates

IMPORTED = {"run": "minilm", "imported": {"model_type": "bert"}}
FINETUNED = {"run": "b", "parent": {"run": "minilm", "provenance": IMPORTED}}
OURS = {"run": "c", "parent": {"run": "a", "provenance": {"run": "a", "parent": None}}}
LOW = {"lr": 5e-5, "embedding_lr": 5e-5, "scalar_lr": 5e-5}


def rates_of(*words: str, start: dict[str, Any] = IMPORTED, stage: str = "finetune") -> dict[str, Any]:
    task = "causal_lm" if stage == "pretrain" else "classify"
    config = with_fitting_rates(compose_unchecked(stage, [f"task={task}", *words]), start)
    return {"choice": config.choices.optimizer, **to_plain(config.optimizer)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"choice": "imported", **LOW}),
        (["peft=lora"], {"choice": "imported_lora", **dict.fromkeys(LOW, 2e-4)}),
        (["optimizer.lr=3e-5"], {"choice": "imported", **dict.fromkeys(LOW, 3e-5)}),
        (["optimizer.embedding_lr=0"], {**LOW, "embedding_lr": 0}),
        (["optimizer=finetune"], {"choice": "finetune", "lr": 0.0015, "embedding_lr": 0.001}),
        (["optimizer=muon"], {"choice": "muon", "_target_": "modules.optim.Muon"}),  # the default, but typed
    ],
)
def test_a_start_from_imported_weights_has_their_rates_and_what_is_typed_stays(
    words: list[str], expected: dict[str, Any]
) -> None:
    found = rates_of(*words)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.slow
def test_so_has_a_start_from_what_was_trained_from_them_and_further_pretraining_but_no_other() -> None:
    assert rates_of(start=FINETUNED)["lr"] == 5e-5
    assert rates_of("init_from=a", stage="pretrain")["lr"] == 5e-5
    assert rates_of(start=OURS)["choice"] == "muon"


def test_what_a_run_has_recorded_stays() -> None:
    recorded = Config(to_plain(compose_unchecked("finetune", ["task=classify"])))
    assert with_fitting_rates(recorded, IMPORTED) == recorded
