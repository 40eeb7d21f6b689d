"""Compare greedy generation and beam search with `generate` of `transformers`, with the same weights."""

import copy
import time
from functools import partial
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.shapes import SHAPES
from benchmarks.side_by_side import Loop, Row, as_row, measure_rates
from benchmarks.synthetic import make_tokenizer
from modules.beam import BeamOptions, beam_search
from modules.generation import SamplingOptions, generate
from modules.model import Model
from modules.quantization import quantize
from pipeline.config.compose import compose
from pipeline.config.model import build_model
from pipeline.config.plain import to_plain
from pipeline.interop.choose import choose_family
from pipeline.interop.shape import dotted

N_PROMPT, N_NEW = 32, 32
PAD_ID = 0

#: Each way to generate: the number of rows, and of beams.
WAYS = {"generate, batch 1": (1, 1), "generate, batch 8": (8, 1), "generate, 4 beams": (1, 4)}


def measure(n_turns: int | None) -> list[Row]:
    """Measure new tokens per second of a decoder with the shape of GPT-2 small, also with 8-bit weights."""
    ours, theirs = same_models()
    quantized = copy.deepcopy(ours)
    quantize(quantized)
    rows = []
    for what, (n_rows, beams) in WAYS.items():
        prompts = torch.randint(100, 2000, (n_rows, N_PROMPT))
        writers = {
            what: partial(write_ours, ours, prompts, beams),
            f"{what}, 8 bits": partial(write_ours, quantized, prompts, beams),
            "transformers": partial(write_theirs, theirs, prompts, beams),
        }
        *mine, peer = writers
        rates = measure_rates(
            {name: _repeated(write) for name, write in writers.items()},
            n_rows * N_NEW,
            n_turns,
            n_warmup_steps=1,
        )
        expected = writers[peer]()
        rows += [
            as_row(
                rates, one, peer, what=one, unit="tokens/s",
                more={"n_prompt": N_PROMPT, "n_new": N_NEW, "same_tokens": writers[one]() == expected},
            )
            for one in mine
        ]  # fmt: skip
    return rows


def same_models() -> tuple[Model, Any]:
    """Return a decoder with random weights, and a model of `transformers` with the same weights."""
    config = compose("pretrain", SHAPES["gpt2-small"].overrides())
    torch.manual_seed(0)
    tokenizer = make_tokenizer(config)
    node = to_plain(config.model)
    model = build_model(node, tokenizer).eval()
    shape = dotted(node, tokenizer.vocab_size)
    family = choose_family(shape)
    theirs_config = AutoConfig.for_model(**family.to_theirs(shape))
    theirs = AutoModelForCausalLM.from_config(theirs_config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    theirs.eval()
    theirs.load_state_dict(family.weights_to_theirs(model.state_dict(), shape), strict=False)
    theirs.tie_weights()
    return model, theirs


def write_ours(model: Model, prompts: torch.Tensor, beams: int = 1) -> list[list[int]]:
    """Generate `N_NEW` tokens for each row with Prelude."""
    if beams == 1:
        greedy = SamplingOptions(temperature=0.0, max_new_tokens=N_NEW)
        return generate(model, prompts.tolist(), greedy, eos_id=-1, pad_id=PAD_ID)
    search = BeamOptions(beams=beams, max_new_tokens=N_NEW)
    found = beam_search(model, prompts.tolist(), search, eos_id=-1, pad_id=PAD_ID)
    return [hypotheses[0].ids for hypotheses in found]


def write_theirs(model: Any, prompts: torch.Tensor, beams: int = 1) -> list[list[int]]:
    """Generate `N_NEW` tokens for each row with `transformers`."""
    options = {"do_sample": False, "max_new_tokens": N_NEW, "pad_token_id": PAD_ID, "eos_token_id": None}
    with torch.inference_mode():
        written = model.generate(prompts, attention_mask=torch.ones_like(prompts), num_beams=beams, **options)
    return [row[N_PROMPT:] for row in written.tolist()]


def _repeated(write: partial[list[list[int]]]) -> Loop:
    def run(n: int) -> float:
        started = time.perf_counter()
        for _ in range(n):
            write()
        return time.perf_counter() - started

    return run
