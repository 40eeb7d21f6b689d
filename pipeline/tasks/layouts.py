"""The layout of a source and its answer: two sequences, or both in a single sequence."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from datamodules.corruption import IGNORE
from datamodules.tokenizer import Tokenizer
from modules.transformer import Decoder, EncoderDecoder, Transformer
from pipeline.errors import ConfigError
from pipeline.tasks.finetuning import Feature
from pipeline.tasks.scoring import Ints


class Layout(Protocol):
    """How prompts, and examples of a prompt with its answer, are laid out within `limit` tokens."""

    def prompt(self, source: Ints, tokenizer: Tokenizer, *, limit: int, reserve: int) -> Ints:
        """Return what the model reads before it generates; the end of a source that is too long is cut."""
        ...

    def room(self, n_prompt: int, *, limit: int) -> int:
        """Return the number of tokens that can be generated after a prompt."""
        ...

    def feature(self, prompt: Ints, answer: Ints, tokenizer: Tokenizer) -> Feature:
        """Return the training example, in which only the answer is labelled."""
        ...


class TwoSequences:
    """For an encoder-decoder: the encoder reads `<bos> source <eos>`, the decoder starts from `<bos>`.

    An imported tokenizer may use other special tokens around the source, and another start token.
    """

    def prompt(self, source: Ints, tokenizer: Tokenizer, *, limit: int, reserve: int) -> Ints:
        """Return `<bos> source <eos>`."""
        before, after = tokenizer.frame
        return framed(before, source[: max(limit - len(before) - len(after), 0)], after)

    def room(self, n_prompt: int, *, limit: int) -> int:
        """Return the whole context: the decoder has a sequence of its own."""
        return limit

    def feature(self, prompt: Ints, answer: Ints, tokenizer: Tokenizer) -> Feature:
        """Return the example, with the answer shifted right by one as the decoder's input."""
        moved = np.concatenate(([tokenizer.start_id], answer[:-1]))
        return {"input_ids": prompt, "decoder_input_ids": moved, "labels": answer}


class OneSequence:
    """For a decoder: `<bos> source <sep> answer`; the loss covers the answer only."""

    def prompt(self, source: Ints, tokenizer: Tokenizer, *, limit: int, reserve: int) -> Ints:
        """Return `<bos> source <sep>`, cut so that `reserve` tokens can be generated after it."""
        kept = source[: max(limit + 1 - reserve - 2, 0)]
        return framed([tokenizer.bos_id], kept, [tokenizer.sep_id])

    def room(self, n_prompt: int, *, limit: int) -> int:
        """Return the rest of the context, plus one: the last token is generated but never read."""
        return limit + 1 - n_prompt

    def feature(self, prompt: Ints, answer: Ints, tokenizer: Tokenizer) -> Feature:
        """Return the example; the label of each position is the token that follows it."""
        unlabelled = np.full(len(prompt) - 1, IGNORE)
        return {
            "input_ids": np.concatenate((prompt, answer[:-1])),
            "labels": np.concatenate((unlabelled, answer)),
        }


#: The layout of each architecture that can generate text.
LAYOUTS: Mapping[type[Transformer], Layout] = {EncoderDecoder: TwoSequences(), Decoder: OneSequence()}


def layout_of(backbone: Transformer) -> Layout:
    """Return the layout for an architecture.

    Raises:
        ConfigError: the architecture cannot generate text.
    """
    for kind, layout in LAYOUTS.items():
        if isinstance(backbone, kind):
            return layout
    raise ConfigError(
        f"{type(backbone).__name__} cannot generate text",
        "an EncoderDecoder or a Decoder",
        "start from a bundle pretrained with denoise or causal_lm",
    )


def framed(before: Sequence[int], ids: npt.NDArray[np.integer], after: Sequence[int]) -> Ints:
    """Return the ids between a prefix and a suffix."""
    return np.concatenate((before, ids, after)).astype(np.int64)
