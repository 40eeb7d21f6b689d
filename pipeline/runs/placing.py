"""Place a model on the device where it answers, with 8-bit weights if they are requested."""

from modules.model import Model
from modules.quantization import quantize
from pipeline import report
from pipeline.machine.devices import device_of
from pipeline.machine.options import TrainerOptions


def place(model: Model, options: TrainerOptions, quantization: str | None) -> str:
    """Move a model to the device that computes, quantize it if requested, and return its description.

    Raises:
        ArgumentError: 8-bit weights are requested, but not supported on this machine.
        ConfigError: a GPU is requested but not available.
    """
    described = report.describe_model(model)
    model.to(device_of(options))
    if quantization is None:
        return described
    n_rounded, n_matrices = quantize(model)
    small = "" if n_rounded else " (they are too small to be faster)"
    return f"{described}, 8-bit weights in {n_rounded} of {n_matrices} matrices{small}"
