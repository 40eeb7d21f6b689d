"""The cost of a training (FLOPs, hours, energy, money, disk), from the shapes of the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from modules.attention import MultiHeadAttention
from modules.flops import TrainingFlops, attention_flops, count_tokens
from modules.heads import LMHead
from modules.layers import FeedForward
from modules.model import Model

#: The compute-optimal number of tokens per parameter: Hoffmann et al. 2022, "Training Compute-Optimal
#: Large Language Models", section 3.4 and table 3.
TOKENS_PER_PARAMETER = 20
#: The largest efficient batch grows with the training tokens D as D ** 0.383 (Bergsma et al. 2025, "Power
#: Lines", arXiv:2505.13738); 2 ** 19 tokens were best for 1.16e9 (karpathy/nanochat, dev/LOG.md, depth 12),
#: where the rule is used from 0.4e9 to 66e9 tokens.
BATCH_EXPONENT, BATCH_TOKENS_AT, BATCH_AT = 0.383, 1.16e9, 2**19
LEAST_TOKENS_OF_RULE = 0.4e9


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one row in training.

    Args:
        tokens: the number of tokens of a row without padding, on both sides of an encoder-decoder.
        flops: the FLOPs of a forward and a backward pass.
    """

    tokens: float
    flops: float

    @property
    def flops_per_token(self) -> float:
        """FLOPs per token of a forward and a backward pass."""
        return self.flops / self.tokens


def work_of(model: Model, batch: Mapping[str, Tensor]) -> Work:
    """Return the work of training `model` on a row of `batch`."""
    n_rows = len(batch["input_ids"])
    counts = count_tokens(batch)
    decoded = batch.get("decoder_input_ids")
    width = batch["input_ids"].shape[1]
    widths: dict[Literal["read", "decoded"], int] = {
        "read": width,
        "decoded": width if decoded is None else decoded.shape[1],
    }
    return Work(
        tokens=float(counts["read"] + counts.get("decoded", 0)) / n_rows,
        flops=float(TrainingFlops(model).of(counts)) / n_rows + attention_flops(model, widths),
    )


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters by kind of module; tied parameters count once."""
    kinds = {"embeddings": nn.Embedding, "attention": MultiHeadAttention, "feed-forward": FeedForward}
    counts: dict[str, int] = dict.fromkeys([*kinds, "head", "norms and the rest"], 0)
    seen: set[nn.Parameter] = set()
    for name, kind in [*kinds.items(), ("head", LMHead), ("norms and the rest", nn.Module)]:
        for module in model.modules():
            if isinstance(module, kind):
                fresh = set(module.parameters()) - seen
                counts[name] += sum(parameter.numel() for parameter in fresh)
                seen |= fresh
    return {name: n for name, n in counts.items() if n}


def advised_batch_tokens(n_tokens: float) -> float | None:
    """Return the largest efficient batch in tokens for training on `n_tokens`; None: too few for the rule."""
    if n_tokens < LEAST_TOKENS_OF_RULE:
        return None
    return float(BATCH_AT * (n_tokens / BATCH_TOKENS_AT) ** BATCH_EXPONENT)


def checkpoint_bytes(weights_bytes: float, state_bytes: float) -> float:
    """Return the size of the checkpoints `last` and `best` with optimizer states, and of both bundles."""
    return 2 * (weights_bytes + state_bytes) + 2 * weights_bytes


def cache_bytes(n_tokens: float, vocab_size: int) -> float:
    """Return the size of token rows on disk: an id and a document number for each token."""
    return n_tokens * ((2 if vocab_size < 2**16 else 4) + 2)
