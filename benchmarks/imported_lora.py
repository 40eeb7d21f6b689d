"""Compare LoRA on an imported decoder with `transformers` and `peft` on the same batches.

Each side runs in its own process. Both start from the same adapter (matrix A is copied from ours, B is 0), so
their losses are equal at every step, except for rounding.

    python -m benchmarks.imported_lora SIDE BUNDLE FOLDER TASK DATA STEPS ROWS

prints the result of one side.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.imported_trainer import bundle_folder, task_and_rows
from benchmarks.turns import median_ratio, take_turns
from datamodules.corruption import IGNORE
from datamodules.features import pad
from modules.peft import LoRA, LoRALinear, add_adapter
from pipeline.runs.bundle import Bundle, load_bundle
from pipeline.tasks.finetuning import Feature, FinetuneTask

#: Attention has the same matrices on both sides; the feed-forward network has not.
OPTIONS = LoRA(rank=8, alpha=16.0, targets=("q_proj", "k_proj", "v_proj", "out_proj"))
NAMES = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "out_proj": "o_proj"}
RATE = 2e-4
#: Longer examples are left out.
MOST_TOKENS = 512
#: Corpora of summaries; all others are dialogues.
SUMMARIES = ("dialogsum", "samsum", "aeslc", "scitldr")

Batches = list[list[Feature]]


def lora(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure peak memory, seconds per step, and the loss of every step."""
    folder, task = bundle_folder(arguments), "summarize" if arguments.data in SUMMARIES else "chat"
    words = [
        str(folder),
        arguments.folder,
        task,
        arguments.data,
        str(arguments.steps),
        str(arguments.batch_size),
    ]
    turns = {side: partial(_elsewhere, side, words) for side in ("ours", "peft")}
    for found in take_turns(turns, arguments.rounds):
        both = [found[side][0]["losses"] for side in turns if found[side]]
        yield {
            "data": arguments.data,
            "steps": arguments.steps,
            "batch_size": arguments.batch_size,
            "adapter": f"rank {OPTIONS.rank}, alpha {OPTIONS.alpha:g}, {', '.join(OPTIONS.targets)}",
            "optimizer": f"AdamW, {RATE}, gradients clipped at 1, fp32",
            "speed_ratio": median_ratio(found, "ours", "peft", "step_s"),
            "memory_ratio": median_ratio(found, "ours", "peft", "peak_mb"),
            "largest_difference": max(map(_distance, *both)) if len(both) == 2 else None,
            **found,
        }


def measure(side: str, bundle: Bundle, folder: str, task: FinetuneTask, batches: Batches) -> dict[str, Any]:
    """Train one side on the batches, and return its figures."""
    torch.manual_seed(0)
    add_adapter(bundle.model.backbone, OPTIONS)
    bundle.model.head.requires_grad_(False)
    model: nn.Module = bundle.model if side == "ours" else _their_model(bundle.model.backbone, folder)
    if side != "ours":
        bundle.model.to("meta")  # only its adapter was needed
    model.train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    loaded = _forget_peak()
    losses, seconds = [], []
    for batch in batches:
        began = time.perf_counter()
        if side == "ours":
            total, n_labels = task.objective().loss(bundle.model, task.collate(batch))
            loss = total / n_labels
        else:
            loss = model(**their_batch(batch)).loss
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
        losses.append(loss.item())
    return {
        "step_s": round(median(seconds), 3),
        "peak_mb": round(_peak_mb()),
        "loaded_mb": round(loaded),
        "trained_parameters": sum(each.numel() for each in trained),
        "losses": losses,
    }


def their_batch(features: Sequence[Feature]) -> dict[str, Tensor]:
    """Convert examples: in `transformers`, a label is at its own token, not at the token before it."""
    ids = [[*each["input_ids"].tolist(), max(int(each["labels"][-1]), 0)] for each in features]
    labels = [[IGNORE, *each["labels"].tolist()] for each in features]
    real = [[1] * len(each) for each in ids]
    padded = {"input_ids": (ids, 0), "labels": (labels, IGNORE), "attention_mask": (real, 0)}
    return {
        name: torch.from_numpy(pad([np.array(row, np.int64) for row in rows], value=value))
        for name, (rows, value) in padded.items()
    }


def their_decoder(folder: str) -> Any:
    """Load the decoder of a folder (safetensors or GGUF) with `transformers`, in float32."""
    import transformers

    place = Path(folder)
    gguf = {} if (place / "config.json").exists() else {"gguf_file": next(place.glob("*.gguf")).name}
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **gguf)
    return model.eval()


def _their_model(backbone: nn.Module, folder: str) -> Any:
    """Load their model, with an adapter that starts from the same weights as ours."""
    from peft import LoraConfig, get_peft_model

    base = their_decoder(folder)
    config = LoraConfig(
        r=OPTIONS.rank, lora_alpha=int(OPTIONS.alpha), lora_dropout=0.0, target_modules=list(NAMES.values())
    )
    made: Any = get_peft_model(base, config)
    firsts = [(name, layer) for name, layer in backbone.named_modules() if isinstance(layer, LoRALinear)]
    theirs = dict(made.named_parameters())
    with torch.no_grad():
        for name, layer in firsts:
            number = re.findall(r"\d+", name)[0]
            ending = f"layers.{number}.self_attn.{NAMES[name.rpartition('.')[2]]}.lora_A.default.weight"
            (key,) = (each for each in theirs if each.endswith(ending))
            theirs[key].copy_(layer.lora_A)
    return made


def _batches(task: FinetuneTask, bundle: Bundle, data: Sequence[Any], steps: int, n_rows: int) -> Batches:
    backbone = bundle.model.backbone
    features = (each for row in data for each in task.features(row, bundle.tokenizer, backbone))
    short = (each for each in features if len(each["input_ids"]) <= MOST_TOKENS)
    chosen = list(islice(short, steps * n_rows))
    return [chosen[first : first + n_rows] for first in range(0, len(chosen), n_rows)]


def _distance(one: float, other: float) -> float:
    return abs(one - other)


def _forget_peak() -> float:
    """Return the memory of the process in MB, and reset its peak (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _status_mb("VmRSS")


def _peak_mb() -> float:
    return _status_mb("VmHWM")


def _status_mb(key: str) -> float:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) / 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _elsewhere(side: str, words: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.imported_lora", side, *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure one side, and print the result."""
    side, place, folder, name, data, steps, n_rows = sys.argv[1:]
    bundle = load_bundle(Path(place))
    task, rows = task_and_rows(name, data)
    batches = _batches(task, bundle, rows["train"], int(steps), int(n_rows))
    print(json.dumps(measure(side, bundle, folder, task, batches)))


if __name__ == "__main__":
    main()
