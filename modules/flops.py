"""FLOPs of training on tokens, computed from the shapes of a model."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from modules.attention import MultiHeadAttention
from modules.freezing import depth_of_parameters
from modules.heads import LMHead
from modules.model import Model

Batch = Mapping[str, Tensor]
#: The tokens that a weight is multiplied with: those that an encoder or a single stack reads, those that the
#: decoder of an encoder-decoder reads, or those that are labelled.
Tokens = Literal["read", "decoded", "labelled"]


def count_tokens(batch: Batch) -> dict[Tokens, int | Tensor]:
    """Count the tokens of a batch without padding; the counts stay on the device, without synchronization."""
    counts: dict[Tokens, int | Tensor] = {"read": _real_tokens(batch, "")}
    if "decoder_input_ids" in batch:
        counts["decoded"] = _real_tokens(batch, "decoder_")
    if "label_index" in batch:
        counts["labelled"] = batch["label_index"].numel()
    return counts


def _real_tokens(batch: Batch, prefix: str) -> int | Tensor:
    ids = batch[f"{prefix}input_ids"]
    real = batch.get(f"{prefix}segment_ids", batch.get(f"{prefix}attention_mask"))
    return ids.numel() if real is None else real.count_nonzero()


class TrainingFlops:
    """FLOPs of the products with weights in training; as in the source, without the scores of attention.

    For each token, an entry of a matrix costs 2 FLOPs in the forward pass, 2 for the gradient of the input if
    anything below is trained, and 2 for its own gradient if it is trained: 6 if everything is trained. An
    embedding lookup costs nothing; a tied head is multiplied with the labelled tokens. Keys and values of
    cross-attention are computed from the encoder's tokens.

    Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1.
    """

    def __init__(self, model: Model) -> None:
        depths = depth_of_parameters(model)
        tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
        self._depths = [(depths[name], weight) for name, weight in model.named_parameters()]
        self._matrices: list[tuple[Tokens, int, nn.Parameter]] = [
            (_multiplied_with(name), depths[name], weight)
            for name, weight in model.named_parameters()
            if weight.ndim == 2 and id(weight) not in tables
        ]
        if isinstance(model.head, LMHead):
            self._matrices.append(("labelled", max(depths.values()), model.head.weight))

    def of(self, n_tokens: Mapping[Tokens, int | Tensor]) -> float | Tensor:
        """Return the FLOPs of a forward and a backward pass, taking frozen parameters into account."""
        lowest = min((depth for depth, weight in self._depths if weight.requires_grad), default=0)
        costs: dict[Tokens, int] = {}
        for tokens, depth, weight in self._matrices:
            passes = 1 + (depth >= lowest) + weight.requires_grad
            costs[tokens] = costs.get(tokens, 0) + 2 * passes * weight.numel()
        return sum(float(cost) * n_tokens.get(tokens, 0) for tokens, cost in costs.items())


def _multiplied_with(name: str) -> Tokens:
    of_the_memory = name.endswith(("cross_attn.k_proj.weight", "cross_attn.v_proj.weight"))
    return "decoded" if name.startswith("backbone.decoder.") and not of_the_memory else "read"


def attention_flops(model: Model, widths: Mapping[Literal["read", "decoded"], int]) -> float:
    """Return the FLOPs of attention scores and weighted sums for one row, forward and backward.

    There are two products of (T, K) and (K, S) matrices per head, and twice as many for the gradients. Masked
    scores of causal attention are counted too, as in the source and in published MFU values.

    Args:
        model: a model of any size.
        widths: the number of tokens of a row on each side: in the encoder or single stack, and in the
            decoder.

    Source: Chowdhery et al. 2022, "PaLM", appendix B: 12 * L * H * Q * T for each token.
    """
    total = 0.0
    for name, part in model.named_modules():
        if isinstance(part, MultiHeadAttention):
            n_queries = widths["decoded"] if name.startswith("backbone.decoder.") else widths["read"]
            n_keys = widths["read"] if name.endswith("cross_attn") else n_queries
            total += 12.0 * part.n_heads * part.head_size * n_queries * n_keys
    return total
