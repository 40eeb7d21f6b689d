"""8-bit weights for inference on a CPU: each token reads a quarter of the bytes of float32 weights.

In a linear layer y = W x, each row of W is rounded to 8 bits with a scale of its own. Rounding the inputs
too costs more accuracy than the weights do, since a few of their values are large, so each input is the sum
of two rounded vectors. That is nearly free, because reading the weights takes longer than multiplying them by
a few vectors. Each token has its own scale, so that its output does not depend on the rest of the batch.

Source: Dettmers et al. 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", section
2.1, eq. 4.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modules.errors import ArgumentError
from modules.heads import LMHead
from modules.model import Model
from modules.peft import merge_adapter

#: The largest rounded weight: 8 bits with their sign.
WEIGHT_STEPS = 127
#: The largest rounded input: 7 bits, because processors without VNNI add two products in 16 bits.
INPUT_STEPS = 63
#: The number of weights of a matrix from which rounding its inputs takes less time than it saves.
WORTH_IT = 1 << 19
#: Rows of smaller values become 0, instead of being divided by 0.
SMALLEST = 1e-30


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights, for a CPU, without gradients.

    Args:
        weight: the weights (out, in) to round; they are not kept.
        bias: the bias (out), which is not rounded.
    """

    def __init__(self, weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bias = None if bias is None else bias.detach().float()
        self._matrix = _Int8Matrix(weight.detach().float())

    def forward(self, x: Float[Tensor, "*N in"]) -> Float[Tensor, "*N out"]:
        """Return W x + b in float32."""
        rows = x.float().reshape(-1, self.in_features)
        largest = rows.abs().amax(dim=1, keepdim=True).clamp_min_(SMALLEST)
        steps = rows * (INPUT_STEPS / largest)
        whole = steps.round()
        rest = (steps - whole) * (2 * INPUT_STEPS)  # as large as whole, because |steps - whole| <= 1/2
        of_whole, of_rest = self._matrix.multiply(torch.cat((whole, rest))).chunk(2)
        out = torch.add(of_whole, of_rest, alpha=1 / (2 * INPUT_STEPS)) * (largest / INPUT_STEPS)
        if self.bias is not None:
            out += self.bias
        return out.reshape(*x.shape[:-1], self.out_features)


@torch.no_grad()
def quantize(model: Model, *, at_least: int = WORTH_IT) -> tuple[int, int]:
    """Round the matrices of linear layers and of the language-model head to 8 bits, in place.

    Matrices of fewer than `at_least` weights, embeddings, norms and biases stay as they are. An adapter is
    merged first.

    Returns:
        the number of rounded matrices, and of all.

    Raises:
        ArgumentError: the model is not on a CPU, or PyTorch has no 8-bit kernels for it.
    """
    _check_kernels(next(model.parameters()).device)
    merge_adapter(model)
    layers = [
        (module, name, layer)
        for module in model.modules()
        for name, layer in module.named_children()
        if isinstance(layer, nn.Linear)
    ]
    matrices: list[tuple[nn.Module, str, nn.Linear | LMHead]] = [*layers]
    if isinstance(model.head, LMHead):
        matrices.append((model.head, "product", model.head))
    large = [each for each in matrices if each[2].weight.numel() >= at_least]
    for module, name, source in large:
        setattr(module, name, Int8Linear(source.weight, source.bias))
    return len(large), len(matrices)


def _check_kernels(device: torch.device) -> None:
    remedy = "leave out `quantization`"
    if device.type != "cpu":
        raise ArgumentError(
            f"8-bit weights are not supported on {device}",
            "a model on a CPU",
            f"{remedy}, or hide the GPU (CUDA_VISIBLE_DEVICES=-1)",
        )
    try:
        _Int8Matrix(torch.ones(8, 8)).multiply(torch.ones(1, 8))
    except (AttributeError, RuntimeError) as error:
        raise ArgumentError(
            "this build of PyTorch has no 8-bit kernels for this processor", "a build with oneDNN", remedy
        ) from error


class _Int8Matrix:
    """A matrix of which each row is rounded to 8 bits, in the order in which the kernel reads it."""

    def __init__(self, weight: Float[Tensor, "out in"]) -> None:
        scales = weight.abs().amax(dim=1).clamp_min(SMALLEST) / WEIGHT_STEPS
        rounded = (weight / scales.unsqueeze(1)).round().to(torch.int8)
        self._packed: Tensor = torch.ops.onednn.qlinear_prepack.default(rounded, None)
        self._scales, self._zeros = scales, torch.zeros_like(scales, dtype=torch.int32)

    def multiply(self, steps: Float[Tensor, "N in"]) -> Float[Tensor, "N out"]:
        """Round to whole numbers, which lie between -INPUT_STEPS and INPUT_STEPS, and multiply."""
        zero = INPUT_STEPS + 1  # the kernel reads numbers without a sign
        out: Tensor = torch.ops.onednn.qlinear_pointwise.default(
            (steps + (zero + 0.5)).to(torch.uint8), 1.0, zero, self._packed, self._scales, self._zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return out
