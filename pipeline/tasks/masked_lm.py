"""Masked language modelling: predict masked tokens from the text on both sides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from datamodules.collate import Batch, RowBatch, collate_masked
from datamodules.corruption import IGNORE, TokenTable
from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions
from modules.model import Model
from pipeline.tasks.base import (
    GAP,
    PretrainingTask,
    Sample,
    TokenObjective,
    check_gaps,
    check_length,
    encode_with_gaps,
)

if TYPE_CHECKING:
    from modules.lit_module import Objective


@dataclass(frozen=True, kw_only=True)
class MaskedLM(PretrainingTask):
    """Hide a share of the tokens: 80 % become the mask token, 10 % a random token, 10 % stay unchanged.

    Source: Devlin et al. 2019, "BERT", section 3.1, where 15 % are hidden; the default of 40 % is from
    Wettig et al. 2023, "Should You Mask 15% in Masked Language Modeling?", section 3.
    """

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.4
    whole_words: bool = False

    overlap = 0
    fills_gaps = True
    hub_task = "fill-mask"

    def row_tokens(self, max_seq_len: int) -> int:
        """Return the context length of the model."""
        return max_seq_len

    def collator(self, tokenizer: Tokenizer, *, seed: int) -> Callable[[RowBatch], Batch]:
        """Return the function that hides tokens of the inputs and labels only those.

        Raises:
            TokenizerError: the vocabulary, an imported one, has no mask token.
        """
        table = TokenTable.of(tokenizer)
        return partial(
            collate_masked,
            tokens=replace(table, mask_id=tokenizer.mask_id),
            seed=seed,
            rate=self.rate,
            whole_words=self.whole_words,
        )

    def objective(self, tokenizer: Tokenizer) -> "Objective":
        """Return the cross-entropy at the hidden tokens."""
        return TokenObjective()

    def samples(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        prompts: Sequence[str],
        texts: Sequence[str],
        options: SamplingOptions,
    ) -> list[Sample]:
        """Fill the `<mask>` gaps of the prompts, or tokens hidden from `texts`."""
        if prompts:
            rows = [
                encode_with_gaps(tokenizer, text, [tokenizer.mask_id] * text.count(GAP)) for text in prompts
            ]
            targets: list[str | None] = [None] * len(rows)
        else:
            rows = [self._hide(tokenizer, text, limit=model.backbone.max_seq_len) for text in texts]
            targets = [tokenizer.decode(tokenizer.encode(text)) for text in texts]
        return [
            Sample(
                input=_with_gaps(tokenizer, ids),
                output=tokenizer.decode(_fill(model, tokenizer, ids)),
                target=target,
            )
            for ids, target in zip(rows, targets, strict=True)
        ]

    def writing(
        self, model: Model, tokenizer: Tokenizer, text: str, options: SamplingOptions
    ) -> dict[str, npt.NDArray[np.int64]]:
        """Return the text, with the most likely token as the label of each gap."""
        check_gaps(text)
        ids = encode_with_gaps(tokenizer, text, [tokenizer.mask_id] * text.count(GAP))
        check_length(len(ids), model)
        read, filled = np.array(ids, np.int64), np.array(_fill(model, tokenizer, ids), np.int64)
        return {"input_ids": read, "labels": np.where(read == tokenizer.mask_id, filled, IGNORE)}

    def _hide(self, tokenizer: Tokenizer, text: str, *, limit: int) -> list[int]:
        """Return the ids of `text` with a share of the words replaced by mask tokens."""
        ids = tokenizer.encode(text)[: limit - 2]
        begins = tokenizer.word_starts[ids]
        words = np.cumsum(begins)
        hidden = np.random.default_rng(0).random(int(words.max(initial=0)) + 1) < self.rate
        return [tokenizer.bos_id, *np.where(hidden[words], tokenizer.mask_id, ids).tolist(), tokenizer.eos_id]


@torch.inference_mode()
def _fill(model: Model, tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Replace each mask by the most likely token that is not a special token."""
    device = model.backbone.embedding.weight.device
    inputs = torch.tensor([ids], device=device)
    logits = model({"input_ids": inputs})
    logits[..., tokenizer.special_ids] = -torch.inf
    filled = torch.where(inputs == tokenizer.mask_id, logits.argmax(-1), inputs)
    return filled[0].tolist()


def _with_gaps(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Decode ids, with each mask token shown as a gap."""
    parts: list[str] = []
    run: list[int] = []
    for token in ids:
        if token == tokenizer.mask_id:
            parts += [tokenizer.decode(run), " ▁▁"]
            run = []
        else:
            run.append(token)
    return "".join([*parts, tokenizer.decode(run)])
