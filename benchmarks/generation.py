"""Compare greedy generation with `generate` of `transformers`, with the same weights."""

import time
from functools import partial
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.shapes import SHAPES
from benchmarks.side_by_side import Loop, Row, compare
from benchmarks.synthetic import make_tokenizer
from modules.generation import SamplingOptions, generate
from modules.model import Model
from pipeline.config.compose import compose
from pipeline.config.model import build_model
from pipeline.config.plain import to_plain
from pipeline.interop.choose import choose_family
from pipeline.interop.shape import dotted

N_PROMPT, N_NEW = 32, 64
BATCHES = (1, 8)
PAD_ID, EOS_ID = 0, 2


def measure(n_turns: int) -> list[Row]:
    """Measure tokens per second of a decoder with the shape of GPT-2 small, for one row and for eight."""
    ours, theirs = same_models()
    rows = []
    for n_rows in BATCHES:
        prompts = torch.randint(100, 2000, (n_rows, N_PROMPT))
        both = {
            "ours": partial(write_ours, ours, prompts),
            "transformers": partial(write_theirs, theirs, prompts),
        }
        written = [write() for write in both.values()]
        rows += compare(
            f"generate, batch {n_rows}",
            {name: _repeated(write) for name, write in both.items()},
            amount=n_rows * N_NEW,
            unit="tokens/s",
            n_turns=n_turns,
            more={"n_prompt": N_PROMPT, "n_new": N_NEW, "same_tokens": written[0] == written[1]},
        )
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


def write_ours(model: Model, prompts: torch.Tensor) -> list[list[int]]:
    """Generate `N_NEW` tokens for each row with Prelude."""
    options = SamplingOptions(temperature=0.0, max_new_tokens=N_NEW)
    return generate(model, prompts.tolist(), options, eos_id=-1, pad_id=PAD_ID)


def write_theirs(model: Any, prompts: torch.Tensor) -> list[list[int]]:
    """Generate `N_NEW` tokens for each row with `transformers`."""
    options = {"do_sample": False, "max_new_tokens": N_NEW, "pad_token_id": PAD_ID, "eos_token_id": None}
    with torch.inference_mode():
        written = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
    return [row[N_PROMPT:] for row in written.tolist()]


def _repeated(write: partial[list[list[int]]]) -> Loop:
    def run(n: int) -> float:
        started = time.perf_counter()
        for _ in range(n):
            write()
        return time.perf_counter() - started

    return run
