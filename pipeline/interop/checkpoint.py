"""Open a Hugging Face model in a folder: its configuration, its tensors and the hashes of its files."""

import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.errors import InteropError
from pipeline.files import sha256_of
from pipeline.interop.families import FAMILIES

#: Weight files that can run code when they are loaded.
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
#: Optional files that are read in addition to the weights.
SMALL_FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "chat_template.jinja"),
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A Hugging Face model before its conversion.

    Args:
        folder: the folder with its files.
        config: `config.json`, completed with the defaults of `transformers`.
        names: the names of all tensors.
        tensor: a function that reads the tensor of a name.
        files: the files that were read.
        gguf: the name of the GGUF file, if it is one.
        origin: the repository and commit on the hub, if it was downloaded.
    """

    folder: Path
    config: Mapping[str, Any]
    names: frozenset[str]
    tensor: Callable[[str], Tensor]
    files: tuple[Path, ...]
    gguf: str | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The path, hash and length in bytes of each file."""
        return [
            {"uri": str(file), "sha256": sha256_of(file), "n_bytes": file.stat().st_size}
            for file in self.files
        ]


def read_checkpoint(folder: Path, origin: Mapping[str, str] | None = None) -> Checkpoint:
    """Open the model in a folder of safetensors, or in a GGUF file.

    Raises:
        InteropError: says what is missing, damaged or not supported.
    """
    if folder.is_file() and folder.suffix == ".gguf":
        return _read_gguf(folder)
    if folder.is_file():
        raise InteropError(
            f"{folder} is a file",
            "the folder of a model, or a GGUF file",
            f"name the folder: make import FROM={folder.parent}",
        )
    if not (folder / "config.json").exists() and len(found := sorted(folder.glob("*.gguf"))) == 1:
        return _read_gguf(found[0])
    config = read_object(folder / "config.json", "the configuration of the model")
    filled = with_defaults(config)
    shards = _shards(folder, config)
    places: dict[str, Path] = {}
    for shard in shards:
        for name in _names_in(shard):
            places[name] = shard

    def tensor(name: str) -> Tensor:
        with safe_open(str(places[name]), framework="pt") as file:
            read: Tensor = file.get_tensor(name)
        return read

    index = folder / "model.safetensors.index.json"
    if len(shards) > 1 or index.exists():
        _check_index(index, places)
    small = [folder / name for name in SMALL_FILES if (folder / name).is_file()]
    return Checkpoint(
        folder=folder,
        config=filled,
        names=frozenset(places),
        tensor=tensor,
        files=(*shards, *small),
        origin=origin or {},
    )


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration, completed with the defaults of `transformers`.

    Raises:
        InteropError: the model requires its own code, is of an unsupported family, or is quantized.
    """
    import transformers

    known = list(dict.fromkeys(family.model_type for family in FAMILIES))
    model_type = config.get("model_type")
    if config.get("auto_map"):
        raise InteropError(
            "config.json requires code that comes with the model (auto_map)",
            "a model class of transformers itself",
            "choose another model: foreign code is never run",
        )
    if model_type not in known:
        raise InteropError(
            f"models of the type {model_type!r} are not supported",
            f"one of {', '.join(known)}",
            "choose another model",
        )
    if config.get("quantization_config"):
        raise InteropError(
            "the weights are quantized",
            "weights in floating point",
            "choose the original model, or a GGUF file",
        )
    try:
        return dict(transformers.AutoConfig.for_model(**config).to_dict())
    except Exception as error:  # the library may raise anything for a wrong value
        raise InteropError(
            f"transformers rejects config.json ({' '.join(str(error).split())[:200]})",
            f"the configuration of a {model_type} model",
            "check config.json",
        ) from error


def read_object(file: Path, what: str) -> dict[str, Any]:
    """Return the JSON object in a file; `what` describes it in errors.

    Raises:
        InteropError: the file is missing, unreadable, or contains another value.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InteropError(
            f"{file.parent} has no {file.name}", what, "name the folder of a Hugging Face model"
        ) from None
    except (OSError, ValueError) as error:
        raise InteropError(f"{file} cannot be read ({error})", what, "download it again") from error
    if not isinstance(value, dict):
        raise InteropError(f"{file} does not contain a JSON object", what, "download it again")
    return value


def _shards(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = read_object(index, "the names of the files of weights").get("weight_map")
        names = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise InteropError(
                f"{index} does not name files next to it", "a weight_map with file names", "download it again"
            )
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise InteropError(
                f"{folder} lacks {', '.join(missing)}",
                f"the {len(names)} files that {index.name} names",
                "download the missing files",
            )
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if pickles := sorted(path.name for form in _PICKLES for path in folder.glob(form)):
        raise InteropError(
            f"{folder} has weights only in {pickles[0]}, a format that can run code when it is loaded",
            "model.safetensors",
            'convert it where you trust it: python -c "import transformers; '
            f"transformers.{_saved_class(config)}.from_pretrained('{folder}').save_pretrained('converted')\"",
        )
    raise InteropError(f"{folder} has no model.safetensors", "weights", "name the folder of a model")


def _saved_class(config: Mapping[str, Any]) -> str:
    """The class that keeps the head of a model that has one; `AutoModel` would drop it."""
    named = config.get("architectures")
    known = (family.architecture for family in FAMILIES)
    return next((name for name in known if isinstance(named, list) and name in named), "AutoModel")


def _names_in(shard: Path) -> list[str]:
    try:
        with safe_open(str(shard), framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise InteropError(
            f"{shard} is damaged or truncated ({error})", "a complete safetensors file", "download it again"
        ) from error


def _check_index(index: Path, places: Mapping[str, Path]) -> None:
    """Check that each tensor is in the file that the index names."""
    named = read_object(index, "the names of the files of weights")["weight_map"]
    wrong = sorted(name for name, file in named.items() if name not in places or places[name].name != file)
    if wrong:
        raise InteropError(
            f"{index} names tensors that are not in their files: {', '.join(wrong[:5])}",
            "files of one model",
            "download them again",
        )


def _read_gguf(file: Path) -> Checkpoint:
    """Read a GGUF file with `transformers`, which converts the weights to float32."""
    import transformers

    _check_gguf_library()
    try:
        with redirect_stderr(StringIO()):  # its progress bar has no switch
            model = transformers.AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name)
    except Exception as error:  # the library may raise anything for a damaged file
        raise InteropError(
            f"{file} cannot be read ({' '.join(str(error).split())[:200]})",
            "a GGUF file of a model that transformers supports",
            "download it again, or choose another model",
        ) from error
    state = model.state_dict()
    described = model.config.to_dict()
    described.pop("quantization_config", None)  # the weights are float32 now
    config = with_defaults(described)
    return Checkpoint(
        folder=file.parent,
        config=config,
        names=frozenset(state),
        tensor=state.__getitem__,
        files=(file,),
        gguf=file.name,
    )


def _check_gguf_library() -> None:
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise InteropError(
            "GGUF files need the package gguf, which is not installed",
            "gguf 0.17 or newer",
            'run .venv/bin/pip install "gguf>=0.17"',
        )
