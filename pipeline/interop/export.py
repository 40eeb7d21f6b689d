"""Export a bundle as a folder that `transformers` loads; it is verified before it is moved into place."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import save_file

from modules.heads import LMHead, NoHead
from modules.transformer import Decoder, EncoderDecoder
from pipeline.errors import InteropError
from pipeline.files import give_usual_mode
from pipeline.interop.card import exported_card
from pipeline.interop.choose import choose_family
from pipeline.interop.proof import Theirs, prove_equal
from pipeline.interop.shape import dotted
from pipeline.interop.table import Family
from pipeline.interop.tokenizer_files import write_tokenizer
from pipeline.output import write_whole
from pipeline.runs.bundle import Bundle
from pipeline.tasks.base import forbidden_ids
from pipeline.tasks.chat import Dialogue

#: The number of tokens per row that are compared.
N_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported folder, and the relative error of its logits when loaded by `transformers`."""

    folder: Path
    architecture: str
    error: float


def export_bundle(bundle: Bundle, folder: Path, model_type: str | None = None) -> Exported:
    """Write the bundle's model, tokenizer and card, load them in a new process, and compare.

    Raises:
        InteropError: the folder exists, no class can express the model, or the loaded model differs.
    """
    folder = new_folder(folder)
    family = find_family(bundle, model_type)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as drafts:
        draft = Path(drafts) / folder.name
        draft.mkdir()
        theirs = write_model(bundle, draft, family)
        error = prove_equal(bundle.model, bundle.tokenizer, theirs, n_tokens=N_TOKENS)
        draft.rename(folder)
    return Exported(folder=folder, architecture=theirs.architecture, error=error)


def new_folder(folder: Path) -> Path:
    """Return the absolute path of a folder that does not exist yet.

    Raises:
        InteropError: the folder exists.
    """
    if folder.exists():
        raise InteropError(f"{folder} exists", "a folder that does not exist yet", "choose another TO=FOLDER")
    return folder.resolve()


def find_family(bundle: Bundle, model_type: str | None = None) -> Family:
    """Return the family of `transformers` that expresses the bundle's model.

    Raises:
        InteropError: there is none, or the head has no equivalent.
    """
    _check_head(bundle)
    return choose_family(dotted(bundle.model_config, bundle.tokenizer.vocab_size), model_type)


def write_model(bundle: Bundle, folder: Path, family: Family) -> Theirs:
    """Write the bundle's model, tokenizer and card into a folder; return how it is loaded and compared."""
    ours = dotted(bundle.model_config, bundle.tokenizer.vocab_size)
    _write(bundle, folder, family, ours)
    for file in folder.iterdir():
        give_usual_mode(file)
    return Theirs(
        folder=folder,
        architecture=family.architecture,
        hidden=partial(family.hidden_to_theirs, ours=ours),
        is_ours=True,
    )


def _check_head(bundle: Bundle) -> None:
    """Check for a language-model head: heads of other tasks have no equivalent in `transformers`.

    Raises:
        InteropError: the model has another head.
    """
    head = bundle.model.head
    if isinstance(head, NoHead):
        raise InteropError(
            f"{bundle.folder} has no head, because the files it was imported from have none",
            "a bundle with a head that scores words",
            "use those files, which `make lineage MODEL=...` names",
        )
    if not isinstance(head, LMHead):
        raise InteropError(
            f"{bundle.folder} has a {type(head).__name__}, which has no equivalent in transformers",
            "a bundle that was pretrained, or fine-tuned for chat, translate or summarize",
            "use the bundle with `make serve`, or from Python with pipeline.load_bundle",
        )


def _write(bundle: Bundle, folder: Path, family: Family, ours: Mapping[str, Any]) -> None:
    tokenizer = bundle.tokenizer
    backbone = bundle.model.backbone
    special: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    if isinstance(backbone, EncoderDecoder):
        special |= {"decoder_start_token_id": tokenizer.start_id, "forced_eos_token_id": None}
    config = {**family.to_theirs(ours), **special, "dtype": "float32"}
    _write_json(folder / "config.json", config)
    state = family.weights_to_theirs(bundle.model.state_dict(), ours)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if isinstance(backbone, Decoder | EncoderDecoder):
        _write_json(
            folder / "generation_config.json", {**special, "suppress_tokens": forbidden_ids(tokenizer)}
        )
    write_its_tokenizer(bundle, folder)
    write_whole(folder / "README.md", exported_card(bundle, family.architecture))


def write_its_tokenizer(bundle: Bundle, folder: Path) -> None:
    """Write the tokenizer's files, with the chat template of a dialogue model."""
    write_tokenizer(
        bundle.tokenizer,
        folder,
        frame=(True, not isinstance(bundle.model.backbone, Decoder)),
        chat=isinstance(bundle.task, Dialogue),
    )


def _write_json(file: Path, value: Any) -> None:
    write_whole(file, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n")
