"""Causal language modelling: predict each token from those before it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from datamodules.collate import Batch, RowBatch, collate_causal
from datamodules.corruption import IGNORE
from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions, generate
from modules.model import Model
from pipeline.tasks.base import PretrainingTask, Sample, TokenObjective, check_length
from pipeline.tasks.showing import Showing

if TYPE_CHECKING:
    from modules.lit_module import Objective

#: Number of texts generated without a prompt if there are no prompts.
N_SAMPLES = 3

#: The first sentence of a text, or a part of it.
_BEGINNING = re.compile(r"^.{18,}?[,，.。]", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class CausalLM(PretrainingTask):
    """Next-token prediction.

    Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", equation 1.
    """

    overlap = 1
    fills_gaps = False
    hub_task = "text-generation"

    showing: ClassVar[Showing] = Showing(
        form="continuation",
        title={"en": "Write", "zh": "续写"},
        about={
            "en": "Goes on from a beginning, word by word.",
            "zh": "从一个开头往下写，一词一词地接。",
        },
        columns={
            "text": {"en": "Beginning", "zh": "开头"},
        },
        view="story",
    )

    def shown_input(self, row: Mapping[str, str]) -> dict[str, str]:
        """The beginning of a document, to go on from."""
        words = list(_BEGINNING.finditer(row["text"]))
        return {"text": row["text"][: words[0].end()] if words else row["text"]}

    def row_tokens(self, max_seq_len: int) -> int:
        """One more than the model reads: the last token is a target only."""
        return max_seq_len + 1

    def collator(self, tokenizer: Tokenizer, *, seed: int) -> Callable[[RowBatch], Batch]:
        """Inputs, and the same moved by one as labels."""
        return collate_causal

    def objective(self, tokenizer: Tokenizer) -> "Objective":
        """Every token is labelled once, so bits per byte are exact where the ids hold every byte."""
        return TokenObjective(token_bytes=tokenizer.token_bytes if tokenizer.is_exact else None)

    def prompt(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """Return the prompt that the model continues: the beginning of a document."""
        before, _ = tokenizer.frame
        return [*before, *tokenizer.encode(text).tolist()] or [tokenizer.bos_id]

    def samples(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        prompts: Sequence[str],
        texts: Sequence[str],
        options: SamplingOptions,
    ) -> list[Sample]:
        """Continue the prompts, or generate text without a prompt."""
        given = list(prompts) or [""] * N_SAMPLES
        ids = [self.prompt(prompt, tokenizer) for prompt in given]
        made = _go_on(model, tokenizer, ids, options)
        return [
            Sample(given=prompt, output=tokenizer.decode_after(asked, new), goes_on=True)
            for prompt, asked, new in zip(given, ids, made, strict=True)
        ]

    def writing(
        self, model: Model, tokenizer: Tokenizer, text: str, options: SamplingOptions
    ) -> dict[str, npt.NDArray[np.int64]]:
        """The text, and how it goes on."""
        ids = self.prompt(text, tokenizer)
        check_length(len(ids), model)
        room = model.backbone.max_seq_len + 1 - len(ids)
        options = replace(options, max_new_tokens=min(options.max_new_tokens, room))
        (new,) = _go_on(model, tokenizer, [ids], options)
        end = [tokenizer.eos_id] if len(new) < options.max_new_tokens else []
        read = np.array([*ids, *new, *end], np.int64)
        labels = read[1:].copy()
        labels[: len(ids) - 1] = IGNORE
        return {"input_ids": read[:-1], "labels": labels}


def _go_on(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], options: SamplingOptions
) -> list[list[int]]:
    forbidden = [special for special in tokenizer.special_ids if special != tokenizer.eos_id]
    return generate(
        model, prompts, options, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id, forbidden_ids=forbidden
    )
