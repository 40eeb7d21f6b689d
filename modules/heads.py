"""Heads on top of the hidden states: language modelling, classification of rows and tokens, spans."""

from collections.abc import Iterator, Mapping
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from modules.dropout import Dropout
from modules.errors import ArgumentError
from modules.layers import ACTIVATIONS, Activation

Batch = Mapping[str, Tensor]


class LMHead(nn.Module):
    """A language-model head: logits over the vocabulary, by default with the backbone's embedding as weights.

    The embedding is not registered as a submodule here, so that state dicts contain it once. A head that is
    not `tied` has its own weights.

    Source: Press and Wolf 2017, "Using the Output Embedding to Improve Language Models"; Vaswani et al. 2017,
    section 3.4. The soft cap: Gemma Team 2024, "Gemma 2", section 2: cap * tanh(logits / cap).
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        *,
        softcap: float | None = None,
        bias: bool = False,
        tied: bool = True,
    ) -> None:
        super().__init__()
        if softcap is not None and softcap <= 0:
            raise ArgumentError(f"softcap is {softcap}", "more than 0", "use 15 or 30, or leave it out")
        self.softcap = softcap
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings)) if bias else None
        self.own_embedding = None if tied else nn.Embedding(*embedding.weight.shape)
        self._embedding = (embedding,)  # in a tuple: torch does not register it
        #: Computes the product with the weights if they are quantized.
        self.product: nn.Module | None = None

    @property
    def weight(self) -> nn.Parameter:
        """The weights (V, D): those of the embedding, unless the head has its own."""
        scoring = self._embedding[0] if self.own_embedding is None else self.own_embedding
        return cast(nn.Parameter, scoring.weight)

    @property
    def is_product(self) -> bool:
        """Whether the logits are the product of the hidden states and `weight`, and nothing else."""
        return type(self) is LMHead and self.softcap is None and self.bias is None and self.product is None

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield the parameters that the logits depend on, including those of a tied embedding."""
        if self.own_embedding is None:
            yield self.weight
        yield from super().parameters(recurse)

    def forward(self, hidden: Float[Tensor, "*N D"], batch: Batch | None = None) -> Float[Tensor, "*N V"]:
        """Return logits in float32; the batch is not used."""
        logits = self._scores(hidden).float()
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def _scores(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        if self.product is None:
            return nn.functional.linear(hidden, self.weight, self.bias)
        scores: Tensor = self.product(hidden)
        return scores


class NoHead(nn.Module):
    """A placeholder for a model without a head, such as an encoder that was saved without one."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, hidden: Float[Tensor, "*N D"], batch: Batch | None = None) -> Float[Tensor, "*N V"]:
        """Raise an error, because there is no head.

        Raises:
            ValueError: always.
        """
        raise ArgumentError("the model has no head", "a model with a head", "fine-tune it, which adds one")


class TransformedLMHead(LMHead):
    """A language-model head with a dense layer, an activation and a norm before the logits, as in BERT.

    Source: Devlin et al. 2019, "BERT", and its code (`get_masked_lm_output`).
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        *,
        activation: Activation = "gelu",
        norm_eps: float = 1e-5,
        softcap: float | None = None,
        bias: bool = True,
        tied: bool = True,
    ) -> None:
        super().__init__(embedding, softcap=softcap, bias=bias, tied=tied)
        d_model = embedding.embedding_dim
        self.dense = nn.Linear(d_model, d_model)
        self.activation = ACTIVATIONS[activation]
        self.norm = nn.LayerNorm(d_model, eps=norm_eps)

    def forward(self, hidden: Float[Tensor, "*N D"], batch: Batch | None = None) -> Float[Tensor, "*N V"]:
        """Return logits in float32; the batch is not used."""
        return super().forward(self.norm(self.activation(self.dense(hidden))))


class PooledClassifier(nn.Module):
    """Logits over C classes for each row, from its first or last real token or the mean of all of them.

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
            raise ArgumentError(f"n_classes is {n_classes}", "at least 1", "give the number of classes")
        self.pooling = pooling
        self.dropout = Dropout(dropout)
        self.classes = nn.Linear(d_model, n_classes)

    def forward(self, hidden: Float[Tensor, "B T D"], batch: Batch) -> Float[Tensor, "B C"]:
        """Return logits in float32; `attention_mask` or `segment_ids` mark real tokens, by default all."""
        logits: Tensor = self.classes(self.dropout(self._pool(hidden, _real_tokens(hidden, batch))))
        return logits.float()

    def _pool(self, hidden: Float[Tensor, "B T D"], real: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        if self.pooling == "mean":
            shares = real.float() / real.sum(dim=1, keepdim=True).clamp_min(1)
            return (hidden * shares.unsqueeze(-1)).sum(dim=1).to(hidden.dtype)
        steps = torch.arange(hidden.shape[1], device=hidden.device)
        if self.pooling == "first":
            index = torch.where(real, steps, hidden.shape[1] - 1).amin(dim=1)
        else:
            index = torch.where(real, steps, 0).amax(dim=1)
        return hidden.gather(1, index[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)


class TokenHead(nn.Module):
    """Logits over C classes for each token.

    Source: Devlin et al. 2019, "BERT", section 5.3 (named entities).
    """

    def __init__(self, d_model: int, *, n_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        if n_classes < 1:
            raise ArgumentError(f"n_classes is {n_classes}", "at least 1", "give the number of classes")
        self.dropout = Dropout(dropout)
        self.classes = nn.Linear(d_model, n_classes)

    def forward(self, hidden: Float[Tensor, "B T D"], batch: Batch | None = None) -> Float[Tensor, "B T C"]:
        """Return logits in float32; the batch is not used."""
        logits: Tensor = self.classes(self.dropout(hidden))
        return logits.float()


class SpanHead(nn.Module):
    """Logits of each token as the first and as the last token of an answer, masked outside of the passage.

    If a question may have no answer, one token of each row stands for that. The task then sets `passage_mask`
    to 1 there too, and passes its index as `null` to the functions below.

    Source: Devlin et al. 2019, "BERT", sections 4.2 and 4.3 (no answer).
    """

    def __init__(self, d_model: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.ends = nn.Linear(d_model, 2)

    def forward(self, hidden: Float[Tensor, "B T D"], batch: Batch) -> Float[Tensor, "B T 2"]:
        """Return logits in float32; tokens outside of `passage_mask` (B, T) get the lowest value."""
        logits: Tensor = self.ends(self.dropout(hidden)).float()
        lowest = torch.finfo(logits.dtype).min
        return logits.masked_fill(~batch["passage_mask"].bool().unsqueeze(-1), lowest)

    @staticmethod
    def n_best_spans(
        logits: Float[Tensor, "B T 2"],
        *,
        n: int,
        max_answer_tokens: int,
        null: Int[Tensor, " B"] | None = None,
    ) -> tuple[Int[Tensor, "B {n} 2"], Float[Tensor, "B {n}"]]:
        """Return first and last tokens of each row's n best answers, best first, and their summed logits.

        Spans have first <= last, at most `max_answer_tokens`, and lie within the passage, never at `null`. If
        a row has fewer spans, the score of the others is -inf, and their indices are arbitrary.
        """
        n_rows, n_tokens, _ = logits.shape
        width = min(max_answer_tokens, n_tokens)
        known = logits.double().masked_fill(logits <= torch.finfo(logits.dtype).min, -torch.inf)
        if null is not None:
            known[torch.arange(n_rows, device=null.device), null] = -torch.inf
        ends = nn.functional.pad(known[:, :, 1], (0, width - 1), value=-torch.inf).unfold(1, width, 1)
        scores = (known[:, :, :1] + ends).flatten(1)  # (B, T * width): by first token, then by length
        if scores.shape[1] < n:
            scores = nn.functional.pad(scores, (0, n - scores.shape[1]), value=-torch.inf)
        best, index = scores.topk(n, dim=1)
        first = index // width
        return torch.stack((first, first + index % width), dim=2).clamp_max(n_tokens - 1), best.float()

    @classmethod
    def best_spans(
        cls,
        logits: Float[Tensor, "B T 2"],
        *,
        max_answer_tokens: int,
        null: Int[Tensor, " B"] | None = None,
    ) -> Int[Tensor, "B 2"]:
        """Return the first and last token of the best answer of each row."""
        return cls.n_best_spans(logits, n=1, max_answer_tokens=max_answer_tokens, null=null)[0][:, 0]

    @staticmethod
    def null_scores(logits: Float[Tensor, "B T 2"], null: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the score of "no answer" in each row, which is comparable with the scores of spans."""
        return logits[torch.arange(len(null), device=null.device), null].sum(dim=1)


def _real_tokens(hidden: Float[Tensor, "B T D"], batch: Batch) -> Bool[Tensor, "B T"]:
    known = batch.get("segment_ids", batch.get("attention_mask"))
    if known is None:
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    return known != 0
