"""Prelude: from raw text to a trained, tracked, comparable transformer. In Python: `load_bundle`."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.runs.bundle import Bundle

__all__ = ["load_bundle"]


def load_bundle(name: str | Path, *, runs_dir: str | Path = "runs") -> "Bundle":
    """Load a trained model with all that is needed to use it, onto the GPU where there is one.

    Args:
        name: of a run, a run's folder, a bundle's folder, or `latest`, the newest finished bundle.
        runs_dir: where runs are.

    Raises:
        BundleError: there is no such bundle, or it is unfinished or damaged.
    """
    from pipeline.machine.devices import device_of
    from pipeline.machine.options import TrainerOptions
    from pipeline.registry.versions import find_trained
    from pipeline.runs import bundle

    found = bundle.load_bundle(find_trained(str(name), Path(runs_dir)))
    found.model.to(device_of(TrainerOptions()))
    return found
