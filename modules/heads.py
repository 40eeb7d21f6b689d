"""What stands on the hidden states: words, classes, spans."""

from collections.abc import Iterator, Mapping
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Batch = Mapping[str, Tensor]


class LMHead(nn.Module):
    """Scores of each word of the vocabulary, by the embedding itself: one tensor, owned by the backbone.

    The embedding is held without being registered here, so that state dicts and files have it once.

    Source: Press and Wolf 2017, "Using the Output Embedding to Improve Language Models"; Vaswani et al. 2017,
    section 3.4. The soft cap: Gemma Team 2024, "Gemma 2", section 2: cap * tanh(logits / cap).
    """

    def __init__(self, embedding: nn.Embedding, *, softcap: float | None = None, bias: bool = False) -> None:
        super().__init__()
        if softcap is not None and softcap <= 0:
            raise ValueError(f"softcap is {softcap}; expected more than 0; use 15 or 30, or leave it out")
        self.softcap = softcap
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings)) if bias else None
        self._embedding = (embedding,)  # in a tuple: torch does not register it

    @property
    def weight(self) -> nn.Parameter:
        """The embedding's own tensor (V, D)."""
        return cast(nn.Parameter, self._embedding[0].weight)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """What the logits depend on: the embedding's tensor too, though its owner saves it."""
        yield self.weight
        yield from super().parameters(recurse)

    def forward(self, hidden: Float[Tensor, "*N D"], batch: Batch | None = None) -> Float[Tensor, "*N V"]:
        """Logits in float32; nothing of the batch is needed."""
        logits = nn.functional.linear(hidden, self.weight, self.bias).float()
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class PooledClassifier(nn.Module):
    """Scores of C classes for each row, from its first, its last or the mean of its real tokens.

    Source: Devlin et al. 2019, "BERT", section 4.1 (first); Radford et al. 2018, section 3.2 (last).
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_classes: int,
        pooling: Literal["first", "mean", "last"] = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if n_classes < 1:
            raise ValueError(f"n_classes is {n_classes}; expected at least 1; give the number of classes")
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Linear(d_model, n_classes)

    def forward(self, hidden: Float[Tensor, "B T D"], batch: Batch) -> Float[Tensor, "B C"]:
        """Logits of each row; `attention_mask` or `segment_ids` of the batch tell its real tokens."""
        logits: Tensor = self.classes(self.dropout(self._pool(hidden, _real_tokens(hidden, batch))))
        return logits

    def _pool(self, hidden: Float[Tensor, "B T D"], real: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        if self.pooling == "mean":
            shares = real.to(hidden.dtype) / real.sum(dim=1, keepdim=True).clamp_min(1)
            return (hidden * shares.unsqueeze(-1)).sum(dim=1)
        steps = torch.arange(hidden.shape[1], device=hidden.device)
        if self.pooling == "first":
            index = torch.where(real, steps, hidden.shape[1] - 1).amin(dim=1)
        else:
            index = torch.where(real, steps, 0).amax(dim=1)
        return hidden.gather(1, index[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)


class SpanHead(nn.Module):
    """Scores of each token as the first and as the last of an answer; outside of the passage there is none.

    Source: Devlin et al. 2019, "BERT", section 4.2.
    """

    def __init__(self, d_model: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.ends = nn.Linear(d_model, 2)

    def forward(self, hidden: Float[Tensor, "B T D"], batch: Batch) -> Float[Tensor, "B T 2"]:
        """Logits in float32; `passage_mask` (B, T) of the batch tells where an answer may stand."""
        logits: Tensor = self.ends(self.dropout(hidden)).float()
        lowest = torch.finfo(logits.dtype).min
        return logits.masked_fill(~batch["passage_mask"].bool().unsqueeze(-1), lowest)

    @staticmethod
    def best_spans(logits: Float[Tensor, "B T 2"], *, max_answer_tokens: int) -> Int[Tensor, "B 2"]:
        """First and last token of the best answer of each row: first <= last, and no longer than allowed."""
        n_tokens = logits.shape[1]
        scores = logits[:, :, None, 0].double() + logits[:, None, :, 1].double()
        within = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=logits.device)
        within = within.triu().tril(max_answer_tokens - 1)
        best = scores.masked_fill(~within, -torch.inf).flatten(1).argmax(dim=1)
        return torch.stack((best // n_tokens, best % n_tokens), dim=1)


def _real_tokens(hidden: Float[Tensor, "B T D"], batch: Batch) -> Bool[Tensor, "B T"]:
    known = batch.get("segment_ids", batch.get("attention_mask"))
    if known is None:
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    return known != 0
