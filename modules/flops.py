"""The work of training on tokens, counted from the shapes of a model."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from modules.attention import MultiHeadAttention
from modules.freezing import depth_of_parameters
from modules.heads import LMHead
from modules.model import Model

Batch = Mapping[str, Tensor]
#: What a weight is multiplied with: tokens that an encoder or a single stack reads, those that the decoder
#: beside an encoder reads, or those that are labelled.
Tokens = Literal["read", "decoded", "labelled"]


def count_tokens(batch: Batch) -> dict[Tokens, int | Tensor]:
    """Tokens of a batch, padding left out; nothing waits for a device."""
    found: dict[Tokens, int | Tensor] = {"read": _real_tokens(batch, "")}
    if "decoder_input_ids" in batch:
        found["decoded"] = _real_tokens(batch, "decoder_")
    if "label_index" in batch:
        found["labelled"] = batch["label_index"].numel()
    return found


def _real_tokens(batch: Batch, prefix: str) -> int | Tensor:
    ids = batch[f"{prefix}input_ids"]
    real = batch.get(f"{prefix}segment_ids", batch.get(f"{prefix}attention_mask"))
    return ids.numel() if real is None else real.count_nonzero()


class TrainingFlops:
    """What training on tokens costs in products with weights; as in the source, without attention's scores.

    A number of a matrix costs each token that it is multiplied with 2 FLOPs forward, 2 for the gradient of
    what went in, if something is trained there or nearer to the tokens, and 2 for its own gradient, if it is
    trained: 6 where all is trained. Looking up an embedding costs nothing; as a tied head it is multiplied
    with the labelled tokens. Keys and values of cross-attention are made of the encoder's tokens.

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
        """FLOPs of a forward and a backward pass, with what is frozen now."""
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
    """FLOPs of the scores of attention and of what they weigh, of one row, forward and backward.

    Two products of (T, K) and (K, S) matrices for each head, and twice as much again for the gradients. What
    a causal mask hides is counted too, as in the source and in measured shares of a peak.

    Args:
        model: a model of any size.
        widths: tokens of a row that the encoder or the single stack reads, and that the decoder reads.

    Source: Chowdhery et al. 2022, "PaLM", appendix B: 12 * L * H * Q * T for each token.
    """
    total = 0.0
    for name, part in model.named_modules():
        if isinstance(part, MultiHeadAttention):
            n_queries = widths["decoded"] if name.startswith("backbone.decoder.") else widths["read"]
            n_keys = widths["read"] if name.endswith("cross_attn") else n_queries
            total += 12.0 * part.n_heads * part.head_size * n_queries * n_keys
    return total
