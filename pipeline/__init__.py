"""Prelude: from raw text to a trained, tracked, comparable transformer. In Python, use `load_bundle`."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.runs.bundle import Bundle

__all__ = ["load_bundle"]


def load_bundle(name: str | Path, *, runs_dir: str | Path = "runs") -> "Bundle":
    """Load a trained model and everything needed to use it, onto the GPU if there is one.

    Args:
        name: the name of a run, the folder of a run or of a bundle, or `latest` for the newest finished
            bundle.
        runs_dir: the folder that contains the runs.

    Raises:
        BundleError: if there is no such bundle, or it is unfinished or damaged.
    """
    from pipeline.machine.devices import device_of
    from pipeline.machine.options import TrainerOptions
    from pipeline.registry.versions import find_trained
    from pipeline.runs import bundle

    found = bundle.load_bundle(find_trained(str(name), Path(runs_dir)))
    found.model.to(device_of(TrainerOptions()))
    return found
