"""The pretraining tasks: rows fit the model, what is measured is labelled, samples show what was asked."""

import numpy as np
import pytest
import torch

from datamodules.collate import RowBatch
from datamodules.tokenizer import Bytes
from modules.generation import SamplingOptions
from modules.model import Model
from pipeline.config.compose import compose
from pipeline.config.model import build_model
from pipeline.config.plain import to_plain
from pipeline.errors import ConfigError
from pipeline.tasks.base import GAP, PretrainingTask, TokenObjective, encode_with_gaps
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.denoise import SpanDenoising
from pipeline.tasks.denoise import _filled as filled
from pipeline.tasks.masked_lm import MaskedLM

TOKENIZER = Bytes().train([])
LIMIT = 64
TASKS = {"causal_lm": CausalLM(), "masked_lm": MaskedLM(), "denoise": SpanDenoising()}
TEXT = "A long text about the moon, the sea and 12 small boats, 🌙 as well. " * 3


def model_for(name: str) -> Model:
    torch.manual_seed(0)
    config = compose("pretrain", [f"task={name}", "debug=quick"])
    return build_model(to_plain(config.model), TOKENIZER).eval()


def rows_for(task: PretrainingTask, n_rows: int = 4) -> RowBatch:
    length = task.row_tokens(LIMIT)
    ids = np.random.default_rng(0).integers(
        len(TOKENIZER.special_ids), TOKENIZER.vocab_size, (n_rows, length)
    )
    return RowBatch(ids.astype(np.uint16), np.ones((n_rows, length), np.uint16), np.arange(n_rows))


@pytest.mark.parametrize("name", TASKS)
def test_no_batch_is_longer_than_the_model_reads(name: str) -> None:
    task = TASKS[name]
    batch = task.collator(TOKENIZER, seed=0)(rows_for(task))
    for key in ("input_ids", "decoder_input_ids"):
        if key in batch:
            assert batch[key].shape[1] <= LIMIT


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_of_a_model_without_knowledge_is_about_that_of_a_guess(name: str) -> None:
    task, model = TASKS[name], model_for(name)
    batch = task.collator(TOKENIZER, seed=0)(rows_for(task))
    nats, n_tokens = task.objective(TOKENIZER).loss(model, batch)
    assert n_tokens == int((batch["labels"] != -100).sum()) > 0
    assert nats.item() / n_tokens == pytest.approx(np.log(TOKENIZER.vocab_size), rel=0.1)


@pytest.mark.parametrize("name", TASKS)
def test_only_a_task_that_labels_all_text_measures_bits_per_byte(name: str) -> None:
    measured = set(TASKS[name].objective(TOKENIZER).metrics())
    assert measured >= {"loss", "perplexity", "accuracy"}
    assert ("bits_per_byte" in measured) == (name == "causal_lm")


def test_bits_per_byte_agree_with_the_loss_of_a_tokenizer_of_bytes() -> None:
    model, task = model_for("causal_lm"), TASKS["causal_lm"]
    objective = task.objective(TOKENIZER)
    assert isinstance(objective, TokenObjective)
    metrics = objective.metrics()
    with torch.no_grad():
        objective.update(metrics, model, task.collator(TOKENIZER, seed=0)(rows_for(task)))
    values = metrics.compute()
    assert values["bits_per_byte"].item() == pytest.approx(values["loss"].item() / np.log(2), rel=1e-4)


def test_gaps_are_numbered_in_order_between_beginning_and_end() -> None:
    ids = encode_with_gaps(TOKENIZER, f"a{GAP}b{GAP}", TOKENIZER.sentinel_ids)
    a, b = (int(TOKENIZER.encode(letter)[0]) for letter in "ab")
    first, second = TOKENIZER.sentinel_ids[:2]
    assert ids == [TOKENIZER.bos_id, a, first, b, second, TOKENIZER.eos_id]


@pytest.mark.parametrize("name", ["masked_lm", "denoise"])
def test_samples_of_texts_show_text_with_gaps_and_the_truth(name: str) -> None:
    samples = TASKS[name].samples(
        model_for(name),
        TOKENIZER,
        prompts=[],
        texts=[TEXT, "short", ""],
        options=SamplingOptions(max_new_tokens=8, temperature=0.0),
    )
    assert len(samples) == 3
    assert "▁▁" in samples[0].input
    assert samples[0].target is not None
    assert TEXT.startswith(samples[0].target[:20])


def test_a_masked_model_changes_nothing_but_the_gaps() -> None:
    prompt = f"The {GAP} is in the {GAP}."
    (sample,) = MaskedLM().samples(
        model_for("masked_lm"), TOKENIZER, prompts=[prompt], texts=[], options=SamplingOptions()
    )
    assert sample.target is None
    assert sample.output.startswith("The ")
    assert " is in the " in sample.output
    assert GAP not in sample.output


@pytest.mark.parametrize("prompts", [[], ["Once", ""]])
def test_a_language_model_writes_three_texts_or_goes_on_from_each_prompt(prompts: list[str]) -> None:
    samples = CausalLM().samples(
        model_for("causal_lm"),
        TOKENIZER,
        prompts=prompts,
        texts=[],
        options=SamplingOptions(max_new_tokens=5, temperature=0.0),
    )
    assert [sample.input for sample in samples] == (prompts or ["", "", ""])
    assert all(sample.target is None for sample in samples)
    assert all(len(sample.output) <= 5 for sample in samples)


def test_spans_are_put_where_their_sentinels_stand() -> None:
    first, second = TOKENIZER.sentinel_ids[:2]
    source = encode_with_gaps(TOKENIZER, f"a{GAP}b{GAP}c", [first, second])
    target = [first, *TOKENIZER.encode("XY").tolist(), TOKENIZER.eos_id]
    assert filled(TOKENIZER, source, target) == "aXYb ▁▁c"
    assert filled(TOKENIZER, source, [second, *target]) == "aXYbc"
    assert filled(TOKENIZER, source, [TOKENIZER.sentinel_ids[7], *target]) == "aXYb ▁▁c"


def test_a_text_may_have_more_gaps_than_there_are_sentinels() -> None:
    n_gaps = 2 * len(TOKENIZER.sentinel_ids) + 3
    source = encode_with_gaps(TOKENIZER, "".join(f"{i},{GAP}" for i in range(n_gaps)), TOKENIZER.sentinel_ids)
    sentinels = [token for token in source if token in TOKENIZER.sentinel_ids]
    assert len(sentinels) == n_gaps
    target = [
        token for i, one in enumerate(sentinels) for token in (one, *TOKENIZER.encode(f"<{i}>").tolist())
    ]
    assert filled(TOKENIZER, source, target) == "".join(f"{i},<{i}>" for i in range(n_gaps))


@pytest.mark.parametrize(("rate", "mean"), [(0.5, 3.0), (0.15, 1.0), (0.5, 1.0), (0.8, 4.0)])
def test_neither_source_nor_target_is_longer_than_the_model_reads(rate: float, mean: float) -> None:
    task, limit = SpanDenoising(rate=rate, mean_span_tokens=mean), 512
    n_tokens = task.row_tokens(limit)
    ids = np.full((3, n_tokens), TOKENIZER.encode("a")[0], np.int64)
    rows = RowBatch(ids, np.ones_like(ids), np.arange(3))
    batch = task.collator(TOKENIZER, seed=0)(rows)
    assert max(batch["input_ids"].shape[1], batch["decoder_input_ids"].shape[1]) <= limit


def test_spans_too_short_to_lie_apart_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"mean_span_tokens is 3.0 at a rate of 0.9; expected 9 or more"):
        SpanDenoising(rate=0.9)
