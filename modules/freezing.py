"""Freezing: parameters by depth, from the embedding up to the head.

The head starts untrained, and lower layers hold the most general features. Fine-tuning may therefore begin
with the head and unfreeze the model layer by layer, or give lower layers smaller learning rates
(`layer_decay` in `modules.optim`).

Source: Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification", sections 3.2
(discriminative fine-tuning) and 3.3 (gradual unfreezing).
"""

from modules.errors import ArgumentError
from modules.model import Model
from modules.transformer import Stack


def depth_of_parameters(model: Model) -> dict[str, int]:
    """Return the depth of each parameter, by its name in `model`.

    0: embeddings and positions; 1, 2, ...: the layers, those of an encoder before those of its decoder, and
    the final norm of a stack with its last layer; one more: the parameters of the head. A tied head has no
    embedding.
    """
    depths = {name: 0 for name, _ in model.named_parameters()}
    depth = 0
    for prefix, module in model.backbone.named_modules(prefix="backbone"):
        if isinstance(module, Stack):
            for i in range(len(module.layers)):
                depth += 1
                _set(depths, f"{prefix}.layers.{i}.", depth)
            _set(depths, f"{prefix}.norm.", depth)
    _set(depths, "head.", depth + 1)
    return depths


def freeze(model: Model, depth: int) -> None:
    """Train the parameters at `depth` or above and freeze those below; 0 trains everything.

    Call this after building the optimizer, which takes only trainable parameters. It skips parameters without
    a gradient, including their weight decay, and updates them again once they are unfrozen.

    Raises:
        ArgumentError: nothing would be trained.
    """
    depths = depth_of_parameters(model)
    highest = max(depths.values())
    if not 0 <= depth <= highest:
        raise ArgumentError(
            f"depth {depth} leaves nothing to train",
            f"from 0 (train everything) to {highest}",
            "freeze fewer layers",
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(depths[name] >= depth)
        if not parameter.requires_grad:
            parameter.grad = None  # otherwise the optimizer would apply it once more


def _set(depths: dict[str, int], prefix: str, depth: int) -> None:
    depths.update({name: depth for name in depths if name.startswith(prefix)})
