"""Export an adapter for the `peft` library, next to its base model for `transformers`.

Another library may split or join our matrices. Therefore the change of the weights is converted as a whole,
layer by layer, and factored into two thin matrices again by a singular value decomposition, without loss.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.peft import LoRA
from pipeline.config.construct import construct
from pipeline.errors import InteropError
from pipeline.files import give_usual_mode
from pipeline.interop.export import (
    N_TOKENS,
    Exported,
    find_family,
    new_folder,
    write_its_tokenizer,
    write_model,
)
from pipeline.interop.proof import prove_equal
from pipeline.interop.shape import dotted
from pipeline.interop.table import Family
from pipeline.output import write_whole
from pipeline.runs.adapters import ADAPTER
from pipeline.runs.bundle import Bundle, load_base
from pipeline.runs.stored import read_part

#: Singular values below this share of the largest one are rounding errors.
NOTHING = 1e-9


def export_adapter(bundle: Bundle, folder: Path) -> Exported:
    """Write the adapter's two files and the tokenizer into `folder`, and the base model into `folder/base`.

    Both together are compared with the bundle's model in a new process.

    Raises:
        InteropError: the folder exists, the bundle has no adapter or more than one, no class can express its
            base model, or the loaded model differs.
        BundleError: the base bundle is missing or has changed.
    """
    folder = new_folder(folder)
    node = read_part(bundle.folder, "model.json").get(ADAPTER)
    if node is None:
        raise InteropError(
            f"{bundle.folder} has no adapter",
            "a bundle that was trained with peft=lora",
            "leave out FORMAT",
        )
    base = load_base(bundle.folder)
    stored = load_file(bundle.folder / "model.safetensors")
    own = sorted(name for name in stored if not name.endswith((".lora_A", ".lora_B")))
    if own or bundle.model_config != base.model_config:
        more = own[0] if own else "its own model"
        raise InteropError(
            f"{bundle.folder} was trained with more than an adapter: {more}",
            "a task that keeps the model's head, such as chat",
            "leave out FORMAT: the adapter is then merged into the model",
        )
    family = find_family(base)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as drafts:
        draft = Path(drafts) / folder.name
        (draft / "base").mkdir(parents=True)
        theirs = replace(write_model(base, draft / "base", family), adapter=draft)
        options = construct(node, LoRA)
        update = _update(base, stored, options, family)
        _write(draft, update, most=options.rank * len(options.targets), base_place=folder / "base")
        write_its_tokenizer(bundle, draft)
        for file in filter(Path.is_file, draft.iterdir()):
            give_usual_mode(file)
        error = prove_equal(bundle.model, bundle.tokenizer, theirs, n_tokens=N_TOKENS)
        draft.rename(folder)
    return Exported(folder=folder, architecture=theirs.architecture, error=error)


def _update(base: Bundle, stored: Mapping[str, Tensor], options: LoRA, family: Family) -> dict[str, Tensor]:
    """Return what the adapter adds to each weight, in float64, by the weight's name in `transformers`."""
    ours = dotted(base.model_config, base.tokenizer.vocab_size)
    before = {name: each.double() for name, each in base.model.state_dict().items()}
    after = dict(before)
    for name in [name.removesuffix("lora_A") for name in stored if name.endswith(".lora_A")]:
        product = stored[f"{name}lora_B"].double() @ stored[f"{name}lora_A"].double()
        after[f"{name}weight"] = before[f"{name}weight"] + options.alpha / options.rank * product
    old, new = family.weights_to_theirs(before, ours), family.weights_to_theirs(after, ours)
    return {name: new[name] - old[name] for name in old if not torch.equal(new[name], old[name])}


def _write(folder: Path, update: Mapping[str, Tensor], *, most: int, base_place: Path) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`; no update has a rank above `most`."""
    tensors, ranks = {}, {}
    transposed = _transposed_layers(folder / "base")
    for name, delta in update.items():
        layer = name.removesuffix(".weight")
        left, sizes, right = _factors(delta.T if layer in transposed else delta, most)
        rank = int((sizes > NOTHING * sizes[0]).sum())
        root, key = sizes[:rank].sqrt(), f"base_model.model.{layer}"
        tensors[f"{key}.lora_A.weight"] = (root.unsqueeze(1) * right[:rank]).float().contiguous()
        tensors[f"{key}.lora_B.weight"] = (left[:, :rank] * root).float().contiguous()
        ranks[layer] = rank
    highest = max(ranks.values(), default=1)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base_place),
        "inference_mode": True,
        "r": highest,
        "lora_alpha": highest,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": bool(transposed),
        "target_modules": sorted(ranks),
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_whole(folder / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def _factors(delta: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S and V^T of a matrix of at most this rank, many times as fast as a complete decomposition.

    Source: Halko et al. 2011, "Finding Structure with Randomness", algorithm 5.1: exact up to rounding, since
    the random vectors span the whole range.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, sizes, right = torch.svd_lowrank(delta, q=min(most, *delta.shape))
    return left, sizes, right.T


def _transposed_layers(base: Path) -> set[str]:
    """Return the layers whose matrices have the inputs first, such as those of GPT-2."""
    from transformers import AutoConfig, AutoModel
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        make: Any = AutoModel.from_config
        model = make(AutoConfig.from_pretrained(base))
    prefix = model.base_model_prefix
    return {f"{prefix}.{name}" for name, each in model.named_modules() if isinstance(each, Conv1D)}
