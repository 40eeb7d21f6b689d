"""Verify that a `transformers` folder contains the same model, in a process that does not import Prelude."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions, generate
from modules.heads import NoHead
from modules.model import Model
from modules.transformer import Decoder, EncoderDecoder, Stack
from pipeline.errors import InteropError
from pipeline.interop import fresh_process
from pipeline.output import write_whole
from pipeline.tasks.base import forbidden_ids

# The maximum relative error of logits in float64; norms, rotations and logits use float32 in both libraries.
TOLERANCE = 1e-6

#: The number of tokens that both libraries generate greedily.
N_WRITTEN = 24

#: Texts that expose differences between tokenizers.
TEXTS = (
    "One sunny morning, a baker went home.",
    "  two spaces before,\n\na line between, and a tab\t.",
    "naïve café, Straße, Ελληνικά, русский, العربية, हिन्दी",
    "春天的早晨，她走到河边。「你好！」",
    "emoji 👩‍👩‍👧 🙂, numbers 1234567890, e = mc²",
)


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """The `transformers` model to compare with.

    Args:
        folder: the folder of the model.
        architecture: the class of `transformers` that loads it.
        gguf: the name of the GGUF file, if it is one.
        adapter: the folder of an adapter of `peft` to add to the model.
        hidden: reorders the features of our hidden states (B, T, D) to their order.
        is_ours: whether the folder was exported by Prelude: then its tensors must match exactly, and it must
            generate the same text as the bundle.
    """

    folder: Path
    architecture: str
    gguf: str | None = None
    adapter: Path | None = None
    hidden: Callable[[Tensor], Tensor]
    is_ours: bool


def prove_equal(model: Model, tokenizer: Tokenizer, theirs: Theirs, *, n_tokens: int) -> float:
    """Return the relative error of the logits, or of hidden states if there is no head.

    Raises:
        InteropError: the model does not load or differs; names the first layer that does.
    """
    with TemporaryDirectory() as place:
        check = Path(place) / "check.safetensors"
        texts = [(text, tokenizer.encode(text).tolist()) for text in TEXTS]
        facts = {key: value for key, value in vars(theirs).items() if key in ("architecture", "gguf")}
        facts["adapter"] = str(theirs.adapter.resolve()) if theirs.adapter is not None else None
        question = json.dumps({**facts, "texts": texts, "tolerance": TOLERANCE}, ensure_ascii=False)
        write_whole(Path(place) / "question.json", question)
        save_file(_expected(model, tokenizer, theirs, n_tokens), check)
        result = _loaded_elsewhere(theirs.folder, check)
    which = "exported" if theirs.is_ours else "imported"
    first = f", first in {result['differs']}" if result["differs"] else ""
    problems = [
        *([f"logits differ by {result['error']:.1e}{first}"] if not result["error"] < TOLERANCE else []),
        *(f"different ids for {text!r}" for text in result["texts"]),
    ]
    if theirs.is_ours:
        problems += [f"{kind}: {', '.join(result[kind])}" for kind in ("missing", "surplus") if result[kind]]
        problems += [] if result["written"] else ["the generated text differs"]
    if problems:
        raise InteropError(
            f"the {which} model differs from the original ({'; '.join(problems)})",
            f"equal ids and texts, and logits within {TOLERANCE:.0e}",
            "report this with the model's configuration; nothing was written",
        )
    return float(result["error"])


def _expected(model: Model, tokenizer: Tokenizer, theirs: Theirs, n_tokens: int) -> dict[str, Tensor]:
    """Return a padded batch, its hidden states and logits, and the continuation of a prompt."""
    model = copy.deepcopy(model).double().eval()
    n_tokens = min(model.backbone.max_seq_len, n_tokens)
    random = torch.Generator().manual_seed(0)
    ordinary = torch.tensor(sorted({*range(tokenizer.vocab_size)} - {*tokenizer.special_ids}))
    ids = ordinary[torch.randint(len(ordinary), (2, n_tokens), generator=random)]
    mask = torch.ones_like(ids)
    mask[1, n_tokens * 2 // 3 :] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if isinstance(model.backbone, EncoderDecoder):
        batch["decoder_input_ids"] = ids.roll(1, dims=1)
        batch["decoder_attention_mask"] = mask.clone()
    with torch.no_grad(), hidden_states(model) as states:
        hidden = model.hidden(batch)
        logits = hidden if isinstance(model.head, NoHead) else model.head(hidden, batch)
    real = mask.bool()
    expected = {f"batch.{name}": tensor for name, tensor in batch.items()}
    expected |= {f"hidden.{name}": theirs.hidden(state)[real] for name, state in states.items()}
    if not isinstance(model.head, NoHead):
        expected["logits"] = logits[real]
    expected["real"] = real
    if theirs.is_ours and isinstance(model.backbone, Decoder | EncoderDecoder):
        expected |= _written(model, tokenizer)
    return {name: tensor.contiguous() for name, tensor in expected.items()}


@contextmanager
def hidden_states(model: Model) -> Iterator[dict[str, Tensor]]:
    """Record the input of each stack and the output of each of its layers, by `STACK.NUMBER`."""
    states: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        states[name] = output.detach()

    def keep_first(name: str, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        states.setdefault(name, inputs[0].detach())

    hooks = []
    for name, stack in model.backbone.named_children():
        if not isinstance(stack, Stack):
            continue
        layers = list(stack.layers)
        hooks.append(layers[0].register_forward_hook(partial(keep_first, f"{name}.0")))
        for number, layer in enumerate(layers[:-1], 1):
            hooks.append(layer.register_forward_hook(partial(keep, f"{name}.{number}")))
        hooks.append(stack.register_forward_hook(partial(keep, f"{name}.{len(layers)}")))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def _written(model: Model, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Return a prompt and its greedy continuation."""
    limit = model.backbone.max_seq_len
    text = tokenizer.encode(TEXTS[0]).tolist()[: limit // 2 - 2]
    before, after = tokenizer.frame
    prompt = [*before, *text, *([] if isinstance(model.backbone, Decoder) else after)]
    (ids,) = generate(
        model,
        [prompt],
        SamplingOptions(temperature=0.0, max_new_tokens=min(N_WRITTEN, limit // 2)),
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.start_id,
        forbidden_ids=forbidden_ids(tokenizer),
    )
    return {"prompt": torch.tensor([prompt]), "written": torch.tensor(ids, dtype=torch.long)}


def _loaded_elsewhere(folder: Path, check: Path) -> dict[str, Any]:
    environ = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    command = [sys.executable, "-I", str(Path(fresh_process.__file__)), str(folder.resolve()), str(check)]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, encoding="utf-8", cwd=check.parent, check=False
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InteropError(
            f"transformers cannot load {folder} ({reason})",
            "a folder that transformers can load",
            "report this with the model's configuration; nothing was written",
        )
    return dict(json.loads(lines[-1]))
