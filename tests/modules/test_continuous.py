"""Rows of a batch that others enter and leave are written as each would be alone."""

import random

import pytest

from modules.continuous import DecodingBatch
from modules.generation import SamplingOptions, generate
from tests.modules.test_generation import EOS, FILTERED, GREEDY, PAD, PLAIN, POSITIONS, V, make_model


def written(batch: DecodingBatch, answers: dict[int, list[int]]) -> None:
    for key, step in batch.step().items():
        answers.setdefault(key, []).extend([] if step.token is None else [step.token])


@pytest.mark.parametrize("position", POSITIONS)
def test_each_row_is_what_it_is_alone_whenever_the_others_come_and_go(position: str) -> None:
    model, numbers = make_model(position=position), random.Random(1)
    options = [GREEDY, PLAIN, FILTERED, SamplingOptions(max_new_tokens=3, seed=9, top_p=0.7)]
    asked = [
        ([numbers.randrange(3, V) for _ in range(numbers.randrange(1, 12))], numbers.choice(options))
        for _ in range(20)
    ]
    batch = DecodingBatch(model, eos_id=EOS, pad_id=PAD, forbidden_ids=(PAD, 1))
    answers: dict[int, list[int]] = {}
    most = 0
    for key, (prompt, chosen) in enumerate(asked):
        batch.add(key, prompt, chosen)
        most = max(most, len(batch))
        for _ in range(numbers.randrange(3)):
            written(batch, answers)
        if key == 7:
            batch.remove({6, 7})
    while len(batch):
        written(batch, answers)
    assert most > 3
    for key, (prompt, chosen) in enumerate(asked):
        (alone,) = generate(model, [prompt], chosen, eos_id=EOS, pad_id=PAD, forbidden_ids=(PAD, 1))
        left_early = key in (6, 7)
        assert answers.get(key, []) == (alone[: len(answers.get(key, []))] if left_early else alone)


def test_a_step_says_how_a_row_ended_and_an_empty_batch_has_no_steps() -> None:
    model = make_model()
    batch = DecodingBatch(model, eos_id=EOS, pad_id=PAD)
    batch.add("short", [5, 6], SamplingOptions(temperature=0.0, max_new_tokens=1))
    (step,) = batch.step().values()
    assert (step.ended, len(batch), batch.step()) == ("length", 0, {})
    with pytest.raises(ValueError, match="prompt is empty"):
        batch.add("none", [], GREEDY)
    with pytest.raises(ValueError, match="EncoderDecoder"):
        DecodingBatch(make_model("encoder_decoder"), eos_id=EOS, pad_id=PAD)
