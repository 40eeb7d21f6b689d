"""A bundle as a folder that `transformers` loads, proved equal before it is put in its place."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions, generate
from modules.model import Model
from modules.transformer import Decoder, EncoderDecoder
from pipeline.errors import InteropError
from pipeline.interop import fresh_process
from pipeline.interop.card import model_card
from pipeline.interop.choose import choose_family
from pipeline.interop.shape import dotted
from pipeline.interop.table import Family
from pipeline.interop.tokenizer_files import write_tokenizer
from pipeline.output import write_whole
from pipeline.runs.bundle import Bundle
from pipeline.tasks.chat import Dialogue

#: The largest relative error of logits in float64; norms, rotations and logits are float32 in both libraries.
TOLERANCE = 1e-6

#: Tokens that both libraries write greedily.
N_WRITTEN = 24

#: What tokenizers get wrong, if anything.
TEXTS = (
    "One sunny morning, a baker went home.",
    "  two spaces before,\n\na line between, and a tab\t.",
    "naïve café, Straße, Ελληνικά, русский, العربية, हिन्दी",
    "春天的早晨，她走到河边。「你好！」",
    "emoji 👩‍👩‍👧 🙂, numbers 1234567890, e = mc²",
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and how far the loaded model's logits are from ours."""

    folder: Path
    architecture: str
    error: float


def export_bundle(bundle: Bundle, folder: Path, model_type: str | None = None) -> Exported:
    """Write the bundle's model, tokenizer and card, load them in a fresh process, and compare.

    Raises:
        InteropError: the folder exists, no class can express the model, or what was loaded differs.
    """
    if folder.exists():
        raise InteropError(f"{folder} exists", "a folder that does not exist yet", "choose another TO=FOLDER")
    ours = dotted(bundle.model_config, bundle.tokenizer.vocab_size)
    family = choose_family(ours, model_type)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as drafts:
        draft = Path(drafts) / folder.name
        draft.mkdir()
        _write(bundle, draft, family, ours)
        error = _check(bundle, draft)
        draft.rename(folder)
    return Exported(folder=folder, architecture=family.architecture, error=error)


def _write(bundle: Bundle, folder: Path, family: Family, ours: Mapping[str, Any]) -> None:
    tokenizer = bundle.tokenizer
    backbone = bundle.model.backbone
    special: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    if isinstance(backbone, EncoderDecoder):
        special |= {"decoder_start_token_id": tokenizer.bos_id, "forced_eos_token_id": None}
    config = {**family.to_theirs(ours), **special, "dtype": "float32"}
    _write_json(folder / "config.json", config)
    state = family.weights_to_theirs(bundle.model.state_dict(), ours)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if isinstance(backbone, Decoder | EncoderDecoder):
        silent = [number for number in tokenizer.special_ids if number != tokenizer.eos_id]
        _write_json(folder / "generation_config.json", {**special, "suppress_tokens": silent})
    write_tokenizer(
        tokenizer,
        folder,
        frame=(True, not isinstance(backbone, Decoder)),
        chat=isinstance(bundle.task, Dialogue),
    )
    write_whole(folder / "README.md", model_card(bundle, family.architecture))


def _check(bundle: Bundle, folder: Path) -> float:
    """The relative error of the logits of the model that a fresh process loads.

    Raises:
        InteropError: it does not load, or differs.
    """
    with TemporaryDirectory() as place:
        check = Path(place) / "check.safetensors"
        texts = [(text, bundle.tokenizer.encode(text).tolist()) for text in TEXTS]
        _write_json(Path(place) / "texts.json", texts)
        save_file(_expected(bundle), check)
        found = _loaded_elsewhere(folder, check)
    problems = [
        *([f"logits differ by {found['error']:.1e}"] if not found["error"] < TOLERANCE else []),
        *(f"{kind}: {', '.join(found[kind])}" for kind in ("missing", "surplus") if found[kind]),
        *(f"other ids for {text!r}" for text in found["texts"]),
        *([] if found["written"] else ["another text is written"]),
    ]
    if problems:
        raise InteropError(
            f"the exported model is not the bundle's ({'; '.join(problems)})",
            f"equal ids and texts, and logits within {TOLERANCE:.0e}",
            "please report this with the bundle's model.json; nothing was written",
        )
    return float(found["error"])


def _expected(bundle: Bundle) -> dict[str, Tensor]:
    """A batch with padding, the logits for it, and what is written after some prompts, in float64."""
    model = _doubled(bundle.model)
    n_tokens = min(model.backbone.max_seq_len, 512)
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(bundle.tokenizer.vocab_size, (2, n_tokens), generator=random)
    mask = torch.ones_like(ids)
    mask[1, n_tokens * 2 // 3 :] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if isinstance(model.backbone, EncoderDecoder):
        batch["decoder_input_ids"] = ids.roll(1, dims=1)
        batch["decoder_attention_mask"] = mask.clone()
    with torch.no_grad():
        logits = model(batch)[mask.bool()]
    expected = {f"batch.{name}": tensor for name, tensor in batch.items()}
    expected |= {"logits": logits, "real": mask.bool()}
    if isinstance(model.backbone, Decoder | EncoderDecoder):
        expected |= _written(model, bundle.tokenizer)
    return expected


def _written(model: Model, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """A prompt, and what the model writes after it, taking the likeliest token each time."""
    limit = model.backbone.max_seq_len
    text = tokenizer.encode(TEXTS[0]).tolist()[: limit // 2 - 2]
    ends = [] if isinstance(model.backbone, Decoder) else [tokenizer.eos_id]
    prompt = [tokenizer.bos_id, *text, *ends]
    (ids,) = generate(
        model,
        [prompt],
        SamplingOptions(temperature=0.0, max_new_tokens=min(N_WRITTEN, limit // 2)),
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.bos_id,
        forbidden_ids=[number for number in tokenizer.special_ids if number != tokenizer.eos_id],
    )
    return {"prompt": torch.tensor([prompt]), "written": torch.tensor(ids, dtype=torch.long)}


def _doubled(model: Model) -> Model:
    """A copy in float64."""
    return copy.deepcopy(model).double().eval()


def _loaded_elsewhere(folder: Path, check: Path) -> dict[str, Any]:
    """What a process says that knows `transformers` and not this project."""
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-I", str(Path(fresh_process.__file__)), str(folder), str(check)]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, encoding="utf-8", cwd=check.parent, check=False
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InteropError(
            f"the exported model does not load ({reason})",
            "a folder that transformers reads",
            "please report this with the bundle's model.json; nothing was written",
        )
    return dict(json.loads(lines[-1]))


def _write_json(file: Path, value: Any) -> None:
    write_whole(file, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n")
