"""Rows of a batch that others enter and leave are written as each would be alone."""

import random

import pytest
from torch import Tensor

from modules.cache import KVCache
from modules.continuous import MAX_WAITING_STEPS, DecodingBatch
from modules.generation import SamplingOptions, generate
from tests.modules.test_generation import EOS, FILTERED, GREEDY, PAD, PLAIN, POSITIONS, V, make_model


def written(batch: DecodingBatch, answers: dict[int, list[int]]) -> None:
    for key, step in batch.step().items():
        answers.setdefault(key, []).extend([] if step.token is None else [step.token])


@pytest.mark.slow
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


@pytest.mark.parametrize(("n_new", "waits"), [(1, MAX_WAITING_STEPS), (2, 0)])
def test_new_rows_wait_for_others_only_a_few_steps_and_not_if_they_are_many(n_new: int, waits: int) -> None:
    model, options = make_model(), SamplingOptions(temperature=0.0, max_new_tokens=12)
    batch = DecodingBatch(model, eos_id=-1, pad_id=PAD)
    for key in range(3):
        batch.add(key, [5 + key], options)
    batch.step()
    for key in range(n_new):
        batch.add(f"new {key}", [6, 7 + key], options)
    for _ in range(waits):
        assert set(batch.step()) == {0, 1, 2}
    assert set(batch.step()) == {0, 1, 2, *(f"new {key}" for key in range(n_new))}


def test_a_long_prompt_is_not_read_together_with_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    batch = DecodingBatch(model, eos_id=EOS, pad_id=PAD)
    for key, length in enumerate((2, 36, 3, 40)):
        batch.add(key, [5] * length, GREEDY)
    read = model.backbone.forward
    shapes = []

    def noted(inputs: dict[str, Tensor], cache: KVCache) -> Tensor:
        shapes.append(tuple(inputs["input_ids"].shape))
        return read(inputs, cache)

    monkeypatch.setattr(model.backbone, "forward", noted)
    assert set(batch.step()) == {0, 1, 2, 3}
    assert shapes == [(2, 3), (2, 40)]
