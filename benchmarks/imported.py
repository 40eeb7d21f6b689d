"""Compare fine-tuning, perplexity and generation of imported weights with `transformers`, in alternation.

    .venv/bin/python -m benchmarks.imported classify --bundle NAME --folder FOLDER --data sst2 --steps 400
    .venv/bin/python -m benchmarks.imported perplexity --bundle NAME --folder FOLDER --text FILE
    .venv/bin/python -m benchmarks.imported generate --bundle NAME --folder FOLDER

`FOLDER` is the folder that the bundle was imported from, or its export. Prints one line of JSON. For
classification, both train on the same rows, with the same number of steps, batch size, precision and learning
rates. The Trainer draws rows at random, as is its default, or with `--sampling group_by_length` groups rows
of similar length, like Prelude.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.arguments import count
from datamodules.corpus import Columns
from datamodules.source import Source
from modules.generation import SamplingOptions, generate
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.machine.devices import choose_precision
from pipeline.machine.options import TrainerOptions
from pipeline.registry.versions import find_trained
from pipeline.runs.bundle import Bundle, load_bundle

Rows = list[dict[str, Any]]

#: The learning rate of both (Devlin et al. 2019, section 4.1).
RATE = 5e-5

PROMPT = "One sunny morning, a baker went to the market"


def main() -> None:
    """Run the requested measurement, and print the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("classify", "perplexity", "generate"))
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--data", default="sst2")
    parser.add_argument("--text")
    parser.add_argument("--steps", type=count, default=400)
    parser.add_argument("--windows", type=count, default=24)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--sampling", choices=("random", "group_by_length"), default="random")
    parser.add_argument("--batch-size", type=count, default=32)
    parser.add_argument("--rounds", type=count, default=2)
    parser.add_argument("--tokens", type=count, default=64)
    arguments = parser.parse_args()
    measure = {"classify": classify, "perplexity": perplexity, "generate": write}[arguments.what]
    print(json.dumps({"what": arguments.what, "bundle": arguments.bundle, **measure(arguments)}))


def _bundle_folder(arguments: argparse.Namespace) -> Path:
    return find_trained(arguments.bundle, Path(arguments.runs_dir))


def _bundle(arguments: argparse.Namespace) -> Bundle:
    return load_bundle(_bundle_folder(arguments))


def classify(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the accuracy on the test rows, and the time, of alternating training runs."""
    precision = choose_precision(TrainerOptions(precision=arguments.precision, accelerator="cpu"))
    turns: dict[str, Callable[[], dict[str, float]]] = {
        "ours": partial(_our_classifier, arguments, precision),
        "trainer": partial(_their_classifier, arguments, precision, *_encoded(arguments)),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in turns}
    for number in range(arguments.rounds):
        names = list(turns) if number % 2 == 0 else list(turns)[::-1]
        for name in names:
            found[name].append(turns[name]())
    ratios = [theirs["fit_s"] / ours["fit_s"] for ours, theirs in zip(*found.values(), strict=True)]
    return {
        "data": arguments.data,
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "precision": precision,
        "optimizer": f"AdamW, {RATE}, no weight decay, linear to 0, gradients clipped at 1",
        "padding": {
            "ours": "to the longest row of a batch, rows of similar length together",
            "trainer": f"to the longest row of a batch, {arguments.sampling}",
        },
        "fit_s": "training alone, with one validation on 32 rows and two checkpoints (ours), none (Trainer)",
        "speed_ratio": median(ratios),
        **found,
    }


def _our_classifier(arguments: argparse.Namespace, precision: str) -> dict[str, float]:
    import lightning as L

    from pipeline.stages.finetune.stage import finetune

    seconds: list[float] = []
    fit = L.Trainer.fit

    def timed(*given: Any, **named: Any) -> None:
        began = time.perf_counter()
        fit(*given, **named)
        seconds.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as place:
        config = compose(
            "finetune",
            [
                *("task=classify", f"data={arguments.data}", "tracking=off", f"runs_dir={place}"),
                f"init_from={_bundle_folder(arguments).absolute()}",
                *(f"trainer.max_steps={arguments.steps}", f"trainer.batch_size={arguments.batch_size}"),
                *("trainer.accelerator=cpu", f"trainer.precision={precision}"),
                *(f"trainer.val_every_steps={arguments.steps}", "trainer.val_rows=32"),
                *("trainer.score_rows=32", "task.linear_baseline=false"),
                *("schedule=linear", "schedule.warmup_steps=0"),
                *(f"optimizer.lr={RATE}", "optimizer.weight_decay=0"),  # all else as for imported weights
            ],
        )
        L.Trainer.fit = timed  # type: ignore[method-assign]
        try:
            metrics = finetune(config).metrics
        finally:
            L.Trainer.fit = fit  # type: ignore[method-assign]
    return {"accuracy": metrics["test/accuracy"], "fit_s": round(seconds[0], 2)}


def _encoded(arguments: argparse.Namespace) -> tuple[Rows, Rows]:
    """Return the training and test rows, encoded by `transformers`, with labels as numbers."""
    import transformers

    config = compose("finetune", ["task=classify", f"data={arguments.data}"])
    corpus = construct(config.data, Source).load(Columns(("text", "label")))
    words = transformers.AutoTokenizer.from_pretrained(arguments.folder)
    longest = transformers.AutoConfig.from_pretrained(arguments.folder).max_position_embeddings
    splits = [list(corpus.train), list(corpus.test or corpus.validation)]
    labels = sorted({str(row["label"]) for row in splits[0]})
    made = []
    for rows in splits:
        ids = words([row["text"] for row in rows], truncation=True, max_length=longest)["input_ids"]
        made.append(
            [
                {"input_ids": each, "label": labels.index(str(row["label"]))}
                for each, row in zip(ids, rows, strict=True)
            ]
        )
    return made[0], made[1]


def _their_classifier(
    arguments: argparse.Namespace, precision: str, train: Rows, test: Rows
) -> dict[str, float]:
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(arguments.folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        arguments.folder, num_labels=1 + max(row["label"] for row in train)
    )
    with tempfile.TemporaryDirectory() as place:
        options = transformers.TrainingArguments(
            output_dir=place, max_steps=arguments.steps, per_device_train_batch_size=arguments.batch_size,
            per_device_eval_batch_size=64, learning_rate=RATE, report_to=[], save_strategy="no", use_cpu=True,
            bf16=precision == "bf16", train_sampling_strategy=arguments.sampling, logging_strategy="no",
        )  # fmt: skip
        trainer = transformers.Trainer(model, options, train_dataset=train, processing_class=words)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        made = trainer.predict(test)  # type: ignore[arg-type]
    right = np.asarray(made.predictions).argmax(-1) == made.label_ids
    return {"accuracy": float(right.mean()), "fit_s": round(seconds, 2)}


def perplexity(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the perplexity of the first windows of 512 tokens of a text with both libraries."""
    bundle = _bundle(arguments)
    text = Path(arguments.text).read_text(encoding="utf-8")[:200_000]
    ids = torch.from_numpy(bundle.tokenizer.encode(text).astype("int64"))
    windows = ids[: len(ids) // 512 * 512].reshape(-1, 512)[: arguments.windows]
    theirs = _their_decoder(arguments.folder)
    losses: dict[str, list[float]] = {"ours": [], "transformers": []}
    with torch.no_grad():
        for window in torch.split(windows, 1):
            ours = bundle.model({"input_ids": window})
            for name, logits in (("ours", ours), ("transformers", theirs(window).logits)):
                loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), window[0, 1:])
                losses[name].append(float(loss))
    found = {name: float(torch.tensor(each).double().mean().exp()) for name, each in losses.items()}
    return {"windows": len(windows), "tokens_each": 512, **found}


def write(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure tokens per second of greedy generation, in alternation."""
    bundle = _bundle(arguments)
    theirs = _their_decoder(arguments.folder)
    before, _ = bundle.tokenizer.frame
    prompt = [*before, *bundle.tokenizer.encode(PROMPT).tolist()]
    options = SamplingOptions(temperature=0.0, max_new_tokens=arguments.tokens)
    seconds: dict[str, list[float]] = {"ours": [], "transformers": []}
    same = True
    for _ in range(arguments.rounds):
        began = time.perf_counter()
        (mine,) = generate(bundle.model, [prompt], options, eos_id=-1, pad_id=bundle.tokenizer.pad_id)
        seconds["ours"].append(time.perf_counter() - began)
        began = time.perf_counter()
        made = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=arguments.tokens, do_sample=False, eos_token_id=-1
        )
        seconds["transformers"].append(time.perf_counter() - began)
        same = same and made[0].tolist()[len(prompt) :] == mine
    speeds = {name: arguments.tokens / median(each) for name, each in seconds.items()}
    return {"same_tokens": same, "tokens_per_second": speeds}


def _their_decoder(folder: str) -> Any:
    import transformers

    place = Path(folder)
    gguf = {} if (place / "config.json").exists() else {"gguf_file": next(place.glob("*.gguf")).name}
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **gguf)
    return model.eval()


if __name__ == "__main__":
    main()
