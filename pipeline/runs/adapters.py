"""Bundles of adapters: they contain only the trained tensors, and a reference to the base bundle.

`model.safetensors` contains only the trained tensors, `model.json` describes the adapter under `adapter`, and
`provenance.json` names the base bundle (the parent), with the hashes of its files. Loading such a bundle
loads its base, adds the adapter and merges it, so that the result is a model like any other.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from modules.model import Model
from modules.peft import LoRA, add_adapter, merge_adapter
from pipeline.config.check import check_nodes
from pipeline.config.construct import construct
from pipeline.errors import BundleError
from pipeline.runs.stored import SMALL, check_sizes, read_part, refused, shapes_in

#: The key of the adapter in `model.json`.
ADAPTER = "adapter"


def save_trained(model: Model, file: Path) -> None:
    """Write the trained weights only, each once."""
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    save_file({name: each.detach().contiguous() for name, each in trained.items()}, file)


def base_of(folder: Path, has_model_of: Callable[[Path, Mapping[str, Any]], bool]) -> Path:
    """Find the base bundle of an adapter: at its recorded path, or with the same weights in another run.

    Raises:
        BundleError: if there is none, or it has changed.
    """
    parent = read_part(folder, "provenance.json").get("parent") or {}
    recorded, runs = Path(str(parent.get("bundle"))), folder.absolute().parent.parent.parent
    sibling = runs / str(parent.get("run")) / "bundles" / recorded.name
    places = dict.fromkeys((recorded, sibling, *sorted(runs.glob("*/bundles/[!.]*"))))
    found = [place for place in places if (place / "DONE").is_file()]
    for place in found:
        if has_model_of(place, parent):
            return place
    changed = next((place for place in found if place in (recorded, sibling)), None)
    what = f"{changed}, which has changed since," if changed else f"{recorded}, which does not exist,"
    raise BundleError(
        f"{folder} is an adapter for {what} and cannot be used without it",
        f"a bundle with the same weights (digest {str(parent.get('digest'))[:12]}…)",
        _remedy(parent, runs),
    )


def _remedy(parent: Mapping[str, Any], runs: Path) -> str:
    """Return how to get the base again: from its source, from the record of its run, or from a copy."""
    copy = "restore the base from a copy"
    imported = (parent.get("provenance") or {}).get("imported") or {}
    if "from" in imported:
        return f"{copy}, or import it again: `make import FROM={imported['from']}`"
    if (runs / str(parent.get("run")) / "config.yaml").is_file():
        return f"{copy}, or recreate it with `make reproduce RUN={parent['run']}`"
    return f"{copy}, or train again"


def load_adapted(folder: Path, node: Mapping[str, Any], make: Callable[[], Model], base: Model) -> Model:
    """Build a model with the weights of the base and of the adapter.

    Args:
        folder: the folder of the bundle.
        node: the description of the adapter in `model.json`.
        make: builds the model without its adapter.
        base: the model of the base bundle.

    Raises:
        BundleError: if the tensors are not those of this adapter, or are not finite.
    """
    file = folder / "model.safetensors"
    with refused(folder / "model.json"):
        check_nodes(node, ADAPTER)
        check_sizes(node, at_most=SMALL)
        options = construct(node, LoRA)
    with refused(file):
        stored = shapes_in(file)
        with torch.random.fork_rng(devices=[]):
            model = make()
            add_adapter(model.backbone, options)
        known, planned = base.state_dict(), model.state_dict()
        if surplus := sorted(stored.keys() - planned.keys()):
            raise ValueError(f"not of this model: {surplus[0]}")
        given = {**{name: each for name, each in known.items() if name in planned}, **load_file(file)}
        if missing := sorted(planned.keys() - given.keys()):
            raise ValueError(f"missing: {missing[0]}")
        for name, each in given.items():
            if each.shape != planned[name].shape:
                raise ValueError(
                    f"{name} has the shape {tuple(each.shape)}, the model {tuple(planned[name].shape)}"
                )
            if not torch.isfinite(each).all():
                raise ValueError(f"{name} contains NaN or infinity")
        model.load_state_dict(given)
    merge_adapter(model.backbone)
    return model
