"""Compare fine-tuning, LoRA, perplexity and generation of imported weights with `transformers`, in turns.

    .venv/bin/python -m benchmarks.imported classify --bundle NAME --folder FOLDER --data sst2 --steps 400
    .venv/bin/python -m benchmarks.imported qa --bundle NAME --folder FOLDER --data squad --steps 1000
    .venv/bin/python -m benchmarks.imported lora --bundle NAME --folder FOLDER --data sgd --steps 20
    .venv/bin/python -m benchmarks.imported perplexity --bundle NAME --folder FOLDER --text FILE
    .venv/bin/python -m benchmarks.imported generate --bundle NAME --folder FOLDER

`FOLDER` is the folder that the bundle was imported from, or its export. A line of JSON with all results so
far is printed after each measurement, so the last line is the result, also if the benchmark is interrupted.
For classification and question answering, both train on the same rows, with the same number of steps, batch
size, precision and learning rates; `--only` leaves one of them out. The Trainer draws rows at random, as is
its default, or with `--sampling group_by_length` groups rows of similar length, like Prelude. With LoRA, both
train on the same batches from the same initial weights, each in its own process.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.arguments import count
from benchmarks.imported_lora import lora, their_decoder
from benchmarks.imported_trainer import bundle_folder, classify, qa
from modules.generation import SamplingOptions, generate
from modules.quantization import quantize
from pipeline.runs.bundle import Bundle, load_bundle

#: The corpus of each training where none is named.
DATA = {"classify": "sst2", "qa": "squad", "lora": "sgd"}

PROMPT = "One sunny morning, a baker went to the market"


def main() -> None:
    """Run the requested measurement, and print all results so far after each part of it."""
    measures: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
        "classify": classify, "qa": qa, "lora": lora, "perplexity": perplexity, "generate": write,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=tuple(measures))
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--data", help=f"default: {DATA}")
    parser.add_argument("--text")
    parser.add_argument("--steps", type=count, default=400)
    parser.add_argument("--windows", type=count, default=24)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--only", choices=("ours", "trainer"), help="classify and qa: train this one alone")
    parser.add_argument("--sampling", choices=("random", "group_by_length"), default="random")
    parser.add_argument("--batch-size", type=count, default=32)
    parser.add_argument("--lr", type=float, default=5e-5, help="5e-5 as in Devlin et al. 2019, section 4.1")
    parser.add_argument("--rounds", type=count, default=2)
    parser.add_argument("--tokens", type=count, default=64)
    arguments = parser.parse_args()
    arguments.data = arguments.data or DATA.get(arguments.what)
    for found in measures[arguments.what](arguments):
        print(json.dumps({"what": arguments.what, "bundle": arguments.bundle, **found}), flush=True)


def _bundle(arguments: argparse.Namespace) -> Bundle:
    return load_bundle(bundle_folder(arguments))


def perplexity(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure the perplexity of the first windows of 512 tokens of a text with both libraries."""
    bundle = _bundle(arguments)
    text = Path(arguments.text).read_text(encoding="utf-8")[:200_000]
    ids = torch.from_numpy(bundle.tokenizer.encode(text).astype("int64"))
    windows = ids[: len(ids) // 512 * 512].reshape(-1, 512)[: arguments.windows]
    theirs = their_decoder(arguments.folder)
    losses: dict[str, list[float]] = {"ours": [], "transformers": []}
    with torch.no_grad():
        for window in torch.split(windows, 1):
            ours = bundle.model({"input_ids": window})
            for name, logits in (("ours", ours), ("transformers", theirs(window).logits)):
                loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), window[0, 1:])
                losses[name].append(float(loss))
    found = {name: float(torch.tensor(each).double().mean().exp()) for name, each in losses.items()}
    yield {"windows": len(windows), "tokens_each": 512, **found}


def write(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure tokens per second of greedy generation, also with 8-bit weights, in alternation."""
    bundle, rounded = _bundle(arguments), _bundle(arguments)
    quantize(rounded.model)
    theirs = their_decoder(arguments.folder)
    before, _ = bundle.tokenizer.frame
    prompt = [*before, *bundle.tokenizer.encode(PROMPT).tolist()]
    options = SamplingOptions(temperature=0.0, max_new_tokens=arguments.tokens)
    seconds: dict[str, list[float]] = {"ours": [], "ours, 8 bits": [], "transformers": []}
    same = True
    for _ in range(arguments.rounds):
        for name, one in (("ours, 8 bits", rounded), ("ours", bundle)):
            began = time.perf_counter()
            (mine,) = generate(one.model, [prompt], options, eos_id=-1, pad_id=one.tokenizer.pad_id)
            seconds[name].append(time.perf_counter() - began)
        began = time.perf_counter()
        made = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=arguments.tokens, do_sample=False, eos_token_id=-1
        )
        seconds["transformers"].append(time.perf_counter() - began)
        same = same and made[0].tolist()[len(prompt) :] == mine
        speeds = {name: arguments.tokens / median(each) for name, each in seconds.items()}
        yield {"same_tokens": same, "tokens_per_second": speeds}


if __name__ == "__main__":
    main()
