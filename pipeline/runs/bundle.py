"""Bundles: a trained model as a folder, written atomically with `DONE` last, and never read without it.

model.safetensors   weights (tied tensors once)
model.json          how to build the backbone and its head
tokenizer.json      the tokenizer, as the `tokenizers` library reads it
target_tokenizer.json  the tokenizer of generated text, only if it is a different one
task.json           the task and its options
config.yaml         the complete configuration of the run
provenance.json     what it was made from: hashes, code, parent, seed
metrics.json        its metrics when it was saved
README.md           the model card; bundles of earlier versions have none
DONE                sha256 of every file above
"""

import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_model

from datamodules.tokenizer import Tokenizer
from modules.model import Model
from pipeline.config.model import build_model
from pipeline.errors import BundleError
from pipeline.files import give_usual_mode, read_json, sha256_of, sync, to_yaml, write_json, write_whole
from pipeline.runs.adapters import ADAPTER, base_of, load_adapted, save_trained
from pipeline.runs.stored import check_model_config, load_weights, read_part, read_task, refused
from pipeline.tasks.finetuning import Prediction

DONE = "DONE"
CARD = "README.md"
FILES = (
    "model.safetensors",
    "model.json",
    "tokenizer.json",
    "task.json",
    "config.yaml",
    "provenance.json",
    "metrics.json",
)

#: The files that change when a run is repeated; the others determine what the model computes.
OF_THE_RUN = ("config.yaml", "provenance.json", "metrics.json", CARD)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A trained model with everything needed to use it."""

    folder: Path
    model: Model
    tokenizer: Tokenizer
    task: Any
    model_config: dict[str, Any]
    task_config: dict[str, Any]
    config: dict[str, Any]
    provenance: dict[str, Any]
    metrics: dict[str, float]

    def predict(self, rows: Sequence[Mapping[str, Any]], *, batch_size: int = 32) -> list[Prediction]:
        """Predict rows, in order, with a fine-tuned model: `text` and, if known, `confidence`.

        Raises:
            BundleError: if the model was not fine-tuned.
            DataError: if a row lacks a column, or a column has the wrong type.
        """
        from pipeline.runs import asking

        return asking.predict(self, rows, batch_size=batch_size)

    def generate(self, prompt: str, **options: Any) -> str:
        """Continue a text, or fill its gaps, with a pretrained model; return the complete text.

        `options` are those of `modules.generation.SamplingOptions`, such as `max_new_tokens` and `seed`.

        Raises:
            BundleError: if the model was fine-tuned.
            ConfigError: if the model fills gaps, but the text has none; or an option is invalid.
        """
        from pipeline.runs import asking

        return asking.generate(self, [prompt], asking.sampling_options(options))[0]


def save_bundle(  # noqa: PLR0913 - one for each file of a bundle
    folder: Path,
    *,
    model: Model,
    tokenizer: Tokenizer,
    model_config: Mapping[str, Any],
    task_config: Mapping[str, Any],
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    metrics: Mapping[str, float],
    card: str | None = None,
) -> None:
    """Write a bundle under a temporary name, then rename it, so that a killed save leaves the old one intact.

    Raises:
        BundleError: if the disk is full or the folder cannot be written; nothing is left behind.
    """
    draft = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}.*draft"):  # left by a killed save
            shutil.rmtree(left, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".draft"))
        draft.chmod(0o755)
        if ADAPTER in model_config:
            save_trained(model, draft / "model.safetensors")
        else:
            save_model(model, str(draft / "model.safetensors"))
        write_json(draft / "model.json", model_config)
        tokenizer.save(draft / "tokenizer.json")
        write_json(draft / "task.json", task_config)
        write_whole(draft / "config.yaml", to_yaml(config))
        write_json(draft / "provenance.json", provenance)
        write_json(draft / "metrics.json", metrics)
        if card is not None:
            write_whole(draft / CARD, card)
        hashes = {file.name: sha256_of(file) for file in sorted(draft.iterdir())}
        write_json(draft / DONE, hashes)
        for file in draft.iterdir():
            give_usual_mode(file)
            sync(file)
        sync(draft)
        _move(draft, folder)
    except (OSError, SafetensorError) as error:
        raise BundleError(
            f"cannot write the bundle {folder} ({error})",
            "a writable folder, with space for the weights",
            "free some space, then resume with RESUME=1",
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def load_bundle(folder: Path) -> Bundle:
    """Load a finished bundle and check every file against its hash; the model is on the CPU, in eval mode.

    Raises:
        BundleError: if the folder is missing, unfinished or damaged, names code outside this project, or has
            a different tokenizer than the one its weights were trained with.
    """
    check_files(folder)
    parts = {name: read_part(folder, f"{name}.json") for name in ("model", "task", "provenance", "metrics")}
    task, config = read_task(folder), read_config(folder)
    check_model_config(parts["model"], folder / "model.json")
    with refused(folder / "tokenizer.json"):
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    _check_tokenizer(tokenizer, parts["provenance"], folder)
    make = partial(build_model, parts["model"], tokenizer)
    adapter = parts["model"].pop(ADAPTER, None)
    if adapter is None:
        model = load_weights(folder / "model.safetensors", parts["model"], make)
    else:
        model = load_adapted(folder, adapter, make, load_base(folder).model)
    return Bundle(
        folder=folder,
        model=model.eval(),
        tokenizer=tokenizer,
        task=task,
        model_config=parts["model"],
        task_config=parts["task"],
        config=config,
        provenance=parts["provenance"],
        metrics=parts["metrics"],
    )


def load_base(folder: Path) -> Bundle:
    """Load the bundle that an adapter was trained on.

    Raises:
        BundleError: if there is no bundle with its weights, or it is damaged.
    """
    return load_bundle(base_of(folder, _has_model_of))


def check_files(folder: Path, *, without: Collection[str] = ()) -> None:
    """Compare the files of a finished bundle with their hashes, except those in `without`.

    Raises:
        BundleError: if the folder is missing or unfinished, or a file is missing or has changed.
    """
    hashes = read_done(folder)
    if linked := next((path for path in folder.rglob("*") if path.is_symlink()), None):
        raise BundleError(
            f"{linked} is a symbolic link",
            "regular files in the bundle itself",
            "replace the link by a copy of the file",
        )
    for name, digest in hashes.items():
        file = folder / name
        if name not in without and (not file.is_file() or sha256_of(file) != digest):
            raise BundleError(
                f"{folder / name} has changed since it was saved",
                f"sha256 {digest[:12]}…",
                "train again, or restore the bundle from a copy",
            )


def parent_of(start: Bundle | None) -> dict[str, Any] | None:
    """Return the record of a bundle's parent, including the parent's own provenance in case it is deleted."""
    if start is None:
        return None
    return {
        "run": start.provenance["run"],
        "bundle": str(start.folder),
        "digest": digest(start.folder),
        "model": _model_files(start.folder),
        "provenance": start.provenance,
    }


def _model_files(folder: Path) -> dict[str, str]:
    """Return the hashes of the files that determine what a model computes."""
    return {name: value for name, value in read_done(folder).items() if name not in OF_THE_RUN}


def _has_model_of(folder: Path, parent: Mapping[str, Any]) -> bool:
    """Return whether a bundle is the recorded parent, or was made again with the same weights."""
    if digest(folder) == parent.get("digest"):
        return True
    try:
        return _model_files(folder) == parent.get("model")
    except BundleError:  # a damaged one
        return False


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of the run that wrote the bundle."""
    return read_part(folder, "config.yaml")


def read_done(folder: Path) -> dict[str, str]:
    """Read file name -> sha256 for a finished bundle.

    Raises:
        BundleError: if there is no folder, or no `DONE` in it.
    """
    _restore_old(folder)
    if not folder.is_dir():
        raise BundleError(
            f"there is no bundle at {folder}", "a folder written by a stage", "run `make pretrain` first"
        )
    if not (folder / DONE).is_file():
        raise BundleError(
            f"{folder} is not a finished bundle (it has no {DONE})",
            "a bundle that was written completely",
            "finish its run with RESUME=1, or name another bundle",
        )
    try:
        done = read_json(folder / DONE)
        if any(name in ("", ".", "..") or Path(name).name != name for name in done):
            raise ValueError("it names a file outside the folder")
        return {name: str(done[name]) for name in (*FILES, *done)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{folder / DONE} is damaged",
            f"the sha256 of {', '.join(FILES)}",
            "train again, or restore the bundle from a copy",
        ) from error


def is_finished(folder: Path) -> bool:
    """Return whether `folder` contains a complete bundle."""
    _restore_old(folder)
    return (folder / DONE).is_file()


def digest(folder: Path) -> str:
    """Return one hash for the complete bundle."""
    return sha256_of(folder / DONE)


def _check_tokenizer(tokenizer: Tokenizer, provenance: Mapping[str, Any], folder: Path) -> None:
    """Reject a tokenizer other than the one that the weights were trained with."""
    trained_with = provenance.get("tokenizer")
    if trained_with not in (None, tokenizer.digest):
        raise BundleError(
            f"{folder / 'tokenizer.json'} is a different tokenizer (sha256 {tokenizer.digest})",
            f"the one that the weights were trained with (sha256 {trained_with})",
            "restore that tokenizer.json, or train again",
        )


def _move(draft: Path, folder: Path) -> None:
    """Move `draft` to `folder`; a kill between the two renames leaves the old bundle as `.NAME.old`."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    draft.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _restore_old(folder: Path) -> None:
    """Restore the bundle that a kill in the middle of `_move` left as `.NAME.old`."""
    old = folder.with_name(f".{folder.name}.old")
    if not folder.exists() and old.exists():
        old.rename(folder)
