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
from pipeline.tasks.base import PretrainingTask, Sample, TokenObjective, check_length, forbidden_ids
from pipeline.tasks.showing import Showing

if TYPE_CHECKING:
    from modules.lit_module import Objective

#: The number of texts that are generated from scratch if there are no prompts.
N_SAMPLES = 3

#: The first sentence of a text, or its first clause of at least 18 characters.
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
            "en": "Continues a beginning, word by word.",
            "zh": "从一个开头往下写，一词一词地接。",
        },
        columns={
            "text": {"en": "Beginning", "zh": "开头"},
        },
        view="story",
    )

    def shown_input(self, row: Mapping[str, str]) -> dict[str, str]:
        """Return the beginning of a document, for the model to continue."""
        words = list(_BEGINNING.finditer(row["text"]))
        return {"text": row["text"][: words[0].end()] if words else row["text"]}

    def row_tokens(self, max_seq_len: int) -> int:
        """Return one token more than the context: the last token is only a target."""
        return max_seq_len + 1

    def collator(self, tokenizer: Tokenizer, *, seed: int) -> Callable[[RowBatch], Batch]:
        """Return the function that uses each row shifted by one token as its labels."""
        return collate_causal

    def objective(self, tokenizer: Tokenizer) -> "Objective":
        """Return the cross-entropy of every token, with bits per byte if the tokenizer is lossless."""
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
        inputs = list(prompts) or [""] * N_SAMPLES
        ids = [self.prompt(text, tokenizer) for text in inputs]
        generated = _continue(model, tokenizer, ids, options)
        return [
            Sample(input=text, output=tokenizer.decode_after(prompt, new), is_continuation=True)
            for text, prompt, new in zip(inputs, ids, generated, strict=True)
        ]

    def writing(
        self, model: Model, tokenizer: Tokenizer, text: str, options: SamplingOptions
    ) -> dict[str, npt.NDArray[np.int64]]:
        """Return the text and its continuation; only the continuation is labelled."""
        ids = self.prompt(text, tokenizer)
        check_length(len(ids), model)
        room = model.backbone.max_seq_len + 1 - len(ids)
        options = replace(options, max_new_tokens=min(options.max_new_tokens, room))
        (new,) = _continue(model, tokenizer, [ids], options)
        end = [tokenizer.eos_id] if len(new) < options.max_new_tokens else []
        read = np.array([*ids, *new, *end], np.int64)
        labels = read[1:].copy()
        labels[: len(ids) - 1] = IGNORE
        return {"input_ids": read[:-1], "labels": labels}


def _continue(
    model: Model, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], options: SamplingOptions
) -> list[list[int]]:
    return generate(
        model,
        prompts,
        options,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        forbidden_ids=forbidden_ids(tokenizer),
    )
