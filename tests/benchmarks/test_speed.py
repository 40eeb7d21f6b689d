import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed import main, spread
from benchmarks.training import Training, count_tokens

TINY = ("debug=quick", "tokenizer.vocab_size=400", "trainer.precision=fp32")


def tiny(*overrides: str, max_steps: int = 6) -> Training:
    return Training([*TINY, *overrides], document_tokens=30, max_steps=max_steps)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(words) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return dict(json.loads(line))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.precision=bf16",),
        ("trainer.accumulate=2", "task=masked_lm", "packing=concat", "optimizer=adamw", "schedule=cosine"),
    ],
)
def test_the_plain_loop_and_the_trainer_make_the_same_steps(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    plain, trained = tiny(*overrides), tiny(*overrides)
    before = [weights.clone() for weights in plain.module.parameters()]
    plain.run_plainly(2)
    ours = plain.run_plainly(4)
    with (tmp_path / "talk").open("w") as stream:
        theirs = trained.run_in_lightning(4, n_warmup_steps=2, folder=tmp_path / "checkpoints", stream=stream)
    for weights in zip(before, plain.module.parameters(), trained.module.parameters(), strict=True):
        assert not torch.equal(weights[0], weights[1])
        assert torch.equal(weights[1], weights[2])
    rows_and_more = 4 * 4 * plain.options.accumulate * 64
    assert 0.5 * rows_and_more < ours.n_tokens == theirs.n_tokens <= rows_and_more
    assert ours.seconds > 0 < theirs.seconds


def test_padding_is_not_counted() -> None:
    ids = torch.ones(2, 3, dtype=torch.int64)
    assert count_tokens({"input_ids": ids}) == 6
    assert count_tokens({"input_ids": ids, "segment_ids": torch.tensor([[1, 1, 2], [1, 0, 0]])}) == 4


@pytest.mark.slow
def test_configurations_stand_side_by_side_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    tiny_words = " ".join(TINY)
    found = run(
        capsys, f"one={tiny_words}", f"two={tiny_words} size.n_layers=4", "--steps", "2", "--turns", "2",
        "--lightning",
    )  # fmt: skip
    assert list(found["configurations"]) == ["one", "two"]
    one, two = found["configurations"].values()
    assert two["parameters"] > one["parameters"]
    assert one["tokens_per_second"]["low"] <= one["tokens_per_second"]["median"]
    assert list(found["ratios"]) == ["two/one"]
    assert 0 < found["ratios"]["two/one"]["low"] <= found["ratios"]["two/one"]["high"]
    assert set(found["lightning"]) == {"one", "two"}


def test_a_spread_is_the_median_with_the_lowest_and_the_highest() -> None:
    assert spread([3.0, 1.0, 2.26], digits=1) == {"median": 2.3, "low": 1.0, "high": 3.0}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["trainer.precision=bf16"], "not a configuration with a unique name"),
        (["a=", "a="], "not a configuration with a unique name"),
        (["a=trainer.precison=bf16"], "did you mean precision?"),
        (["a=size=huge"], "size=huge: no such option"),
    ],
)
def test_a_mistake_in_a_configuration_is_answered_in_one_line(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert problem in capsys.readouterr().err


def test_no_steps_are_no_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["a=", "--steps", "0"])
    assert "'0' is not a whole number of 1 or more" in capsys.readouterr().err
