"""Span denoising: an encoder reads a text with gaps, and a decoder generates the missing spans."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datamodules.collate import Batch, RowBatch, collate_denoise
from datamodules.corruption import TokenTable, span_denoise
from datamodules.errors import TokenizerError
from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions, generate
from modules.model import Model
from pipeline.errors import ConfigError
from pipeline.tasks.base import (
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
class SpanDenoising(PretrainingTask):
    """Replace spans by sentinel tokens; the target is each sentinel followed by the span it replaced.

    Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 3.1.4, with 15 % of the
    tokens dropped. The default of 50 %, as in one of the denoisers of Tay et al. 2022, "UL2", section 3.1,
    labels more tokens per step, and small models learn far faster with it (docs/log.md).

    Raises:
        ConfigError: the spans are too short to keep a token between each two of them.
    """

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    mean_span_tokens: Annotated[float, Field(ge=1)] = 3.0

    overlap = 0
    fills_gaps = True
    hub_task = "text2text-generation"

    def __post_init__(self) -> None:
        shortest = self.rate / (1 - self.rate)  # at least one token remains between two spans
        if self.mean_span_tokens < round(shortest, 6):
            raise ConfigError(
                f"mean_span_tokens is {self.mean_span_tokens} at a rate of {self.rate}",
                f"{shortest:.3g} or more, so that a token remains between two spans",
                "lower task.rate or raise task.mean_span_tokens",
            )

    def row_tokens(self, max_seq_len: int) -> int:
        """Return the context length of the model, or less if targets are longer than their sources."""
        target_of_token = self.rate * (1 + 1 / self.mean_span_tokens)
        return int(max_seq_len / max(1.0, 1.05 * target_of_token))  # 5 % for rounding in each document

    def collator(self, tokenizer: Tokenizer, *, seed: int) -> Callable[[RowBatch], Batch]:
        """Return the function that makes sources with sentinels, and targets with the dropped spans.

        Raises:
            TokenizerError: the vocabulary, an imported one, has no sentinel tokens.
        """
        if not tokenizer.sentinel_ids:
            raise TokenizerError(
                "the tokenizer has no sentinel tokens for dropped spans",
                "tokens <extra_id_0>, <extra_id_1>, ..., like those of T5",
                "choose another task, or a model whose tokenizer has them",
            )
        return partial(
            collate_denoise,
            tokens=TokenTable.of(tokenizer),
            seed=seed,
            rate=self.rate,
            mean_span_tokens=self.mean_span_tokens,
        )

    def objective(self, tokenizer: Tokenizer) -> "Objective":
        """Return the cross-entropy on the targets."""
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
        """Fill the `<mask>` gaps of the prompts, or spans dropped from `texts`."""
        if prompts:
            sources = [encode_with_gaps(tokenizer, text, tokenizer.sentinel_ids) for text in prompts]
            targets: list[str | None] = [None] * len(sources)
        else:
            sources = [self._drop(tokenizer, text, limit=model.backbone.max_seq_len) for text in texts]
            targets = list(texts)
        generated = _write(model, tokenizer, sources, options)
        return [
            Sample(
                input=_filled(tokenizer, source, []),
                output=_filled(tokenizer, source, filled),
                target=target,
            )
            for source, filled, target in zip(sources, generated, targets, strict=True)
        ]

    def writing(
        self, model: Model, tokenizer: Tokenizer, text: str, options: SamplingOptions
    ) -> dict[str, npt.NDArray[np.int64]]:
        """Return the text with a sentinel for each gap, and the generated target."""
        check_gaps(text)
        source = encode_with_gaps(tokenizer, text, tokenizer.sentinel_ids)
        check_length(len(source), model)
        (new,) = _write(model, tokenizer, [source], options)
        end = [tokenizer.eos_id] if len(new) < options.max_new_tokens else []
        labels = np.array([*new, *end], np.int64)
        moved = np.concatenate(([tokenizer.start_id], labels[:-1]))
        return {"input_ids": np.array(source, np.int64), "decoder_input_ids": moved, "labels": labels}

    def _drop(self, tokenizer: Tokenizer, text: str, *, limit: int) -> list[int]:
        """Return the source of `text`, with spans dropped as in training."""
        ids = [tokenizer.bos_id, *tokenizer.encode(text)[: limit - 2].tolist(), tokenizer.eos_id]
        corrupted = span_denoise(
            np.array([ids]),
            np.ones((1, len(ids)), np.int64),
            keys=np.zeros(1, np.int64),
            seed=0,
            tokens=TokenTable.of(tokenizer),
            rate=self.rate,
            mean_span_tokens=self.mean_span_tokens,
        )
        source: list[int] = corrupted.source[0].tolist()
        return source


def _write(
    model: Model, tokenizer: Tokenizer, sources: Sequence[Sequence[int]], options: SamplingOptions
) -> list[list[int]]:
    """Generate a target for each source: sentinels followed by the tokens of their spans."""
    forbidden = [
        special
        for special in tokenizer.special_ids
        if special != tokenizer.eos_id and special not in tokenizer.sentinel_ids
    ]
    return generate(
        model,
        sources,
        options,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.start_id,
        forbidden_ids=forbidden,
    )


def _spans(tokenizer: Tokenizer, target: Sequence[int], n_gaps: int) -> dict[int, list[int]]:
    """Map the index of each gap to the ids that the target has for it; gaps reuse the sentinels in turn."""
    places = {sentinel: place for place, sentinel in enumerate(tokenizer.sentinel_ids)}
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    number = 0
    for token in target:
        if token in places:
            gaps = range(places[token], n_gaps, len(places))
            number = next((gap for gap in gaps if gap >= number), gaps[-1] if gaps else number)
            current = spans.setdefault(number, []) if gaps else []
        elif token != tokenizer.eos_id:
            current.append(token)
    return spans


def _filled(tokenizer: Tokenizer, source: Sequence[int], target: Sequence[int]) -> str:
    """Decode the source with its sentinels replaced by their spans in the target, or by gaps."""
    spans = _spans(tokenizer, target, sum(token in tokenizer.sentinel_ids for token in source))
    parts: list[str] = []
    run: list[int] = []
    number = 0
    for token in source:
        if token not in tokenizer.sentinel_ids:
            run.append(token)
            continue
        if number in spans:
            run += spans[number]
        else:
            parts += [tokenizer.decode(run), " ▁▁"]
            run = []
        number += 1
    return "".join([*parts, tokenizer.decode(run)])
