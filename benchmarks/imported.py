"""Imported weights: our fine-tuning, perplexity and generation beside those of `transformers`, turn about.

    .venv/bin/python -m benchmarks.imported classify --bundle NAME --folder FOLDER --data sst2 --steps 500
    .venv/bin/python -m benchmarks.imported perplexity --bundle NAME --folder FOLDER --text FILE
    .venv/bin/python -m benchmarks.imported generate --bundle NAME --folder FOLDER

`FOLDER` is what the bundle was imported from, or its export. Prints one line of JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.arguments import count
from datamodules.corpus import Columns
from modules.generation import SamplingOptions, generate
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.registry.versions import find_trained
from pipeline.runs.bundle import Bundle, load_bundle

#: The learning rate of both (Devlin et al. 2019, section 4.1).
RATE = 5e-5

PROMPT = "One sunny morning, a baker went to the market"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("classify", "perplexity", "generate"))
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--data", default="sst2")
    parser.add_argument("--text")
    parser.add_argument("--steps", type=count, default=500)
    parser.add_argument("--batch-size", type=count, default=32)
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--tokens", type=count, default=64)
    arguments = parser.parse_args()
    measure = {"classify": classify, "perplexity": perplexity, "generate": write}[arguments.what]
    print(json.dumps({"what": arguments.what, "bundle": arguments.bundle, **measure(arguments)}))


def _bundle(arguments: argparse.Namespace) -> Bundle:
    return load_bundle(find_trained(arguments.bundle, Path(arguments.runs_dir)))


def classify(arguments: argparse.Namespace) -> dict[str, Any]:
    """Accuracy on the test rows, and seconds, of the same rows, steps and batches."""
    return {
        "data": arguments.data,
        "steps": arguments.steps,
        "ours": _our_classifier(arguments),
        "trainer": _their_classifier(arguments),
    }


def _our_classifier(arguments: argparse.Namespace) -> dict[str, float]:
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
                f"init_from={Path(arguments.runs_dir) / arguments.bundle}",
                *(f"trainer.max_steps={arguments.steps}", f"trainer.batch_size={arguments.batch_size}"),
                f"trainer.val_every_steps={arguments.steps}",
                "optimizer=finetune",
                *(f"optimizer.{name}={RATE}" for name in ("lr", "embedding_lr", "scalar_lr")),
            ],
        )
        L.Trainer.fit = timed  # type: ignore[method-assign]
        try:
            metrics = finetune(config).metrics
        finally:
            L.Trainer.fit = fit  # type: ignore[method-assign]
    return {**metrics, "fit_s": round(seconds[0], 2)}


def _their_classifier(arguments: argparse.Namespace) -> dict[str, float]:
    import transformers

    config = compose("finetune", ["task=classify", f"data={arguments.data}"])
    corpus = construct(config.data).load(Columns(("text", "label")))
    rows = list(corpus.train)
    labels = sorted({str(row["label"]) for row in rows})
    words = transformers.AutoTokenizer.from_pretrained(arguments.folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        arguments.folder, num_labels=len(labels)
    )

    def encoded(some: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                **words(row["text"], truncation=True, max_length=model.config.max_position_embeddings),
                "label": labels.index(str(row["label"])),
            }
            for row in some
        ]

    with tempfile.TemporaryDirectory() as place:
        options = transformers.TrainingArguments(
            output_dir=place, max_steps=arguments.steps, per_device_train_batch_size=arguments.batch_size,
            per_device_eval_batch_size=64, learning_rate=RATE, report_to=[], save_strategy="no", use_cpu=True,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model, options, train_dataset=encoded(rows), processing_class=words,
        )  # fmt: skip
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        test = encoded(list(corpus.test or corpus.validation))
        made = trainer.predict(test)  # type: ignore[arg-type]
    right = np.asarray(made.predictions).argmax(-1) == made.label_ids
    return {"accuracy": float(right.mean()), "fit_s": round(seconds, 2)}


def perplexity(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of the first windows of 512 tokens of a text, by both libraries."""
    bundle = _bundle(arguments)
    text = Path(arguments.text).read_text(encoding="utf-8")[:200_000]
    ids = torch.from_numpy(bundle.tokenizer.encode(text).astype("int64"))
    windows = ids[: len(ids) // 512 * 512].reshape(-1, 512)[: arguments.steps]
    theirs = _their_decoder(arguments.folder)
    losses: dict[str, list[float]] = {"ours": [], "transformers": []}
    with torch.no_grad():
        for window in torch.split(windows, 1):
            ours = bundle.model({"input_ids": window})
            for name, logits in (("ours", ours), ("transformers", theirs(window).logits)):
                loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), window[0, 1:])
                losses[name].append(float(loss))
    return {name: float(torch.tensor(each).double().mean().exp()) for name, each in losses.items()}


def write(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of greedy generation, turn about."""
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
