"""The layout of a source and its answer: two sequences, or one after the other in a single sequence."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from datamodules.corruption import IGNORE
from datamodules.tokenizer import Tokenizer
from modules.transformer import Decoder, EncoderDecoder, Transformer
from pipeline.errors import ConfigError
from pipeline.tasks.finetuning import Feature

Ids = npt.NDArray[np.int64]


class Layout(Protocol):
    """Prompts, and examples of a prompt with its answer, within `limit` tokens."""

    def prompt(self, source: Ids, tokenizer: Tokenizer, *, limit: int, reserve: int) -> Ids:
        """Return what the model reads before it generates; a source that is too long loses its end."""
        ...

    def room(self, n_prompt: int, *, limit: int) -> int:
        """Return the number of tokens that can be generated after a prompt."""
        ...

    def feature(self, prompt: Ids, answer: Ids, tokenizer: Tokenizer) -> Feature:
        """The example; only the answer is labelled."""
        ...


class TwoSequences:
    """For an encoder-decoder: the encoder reads `<bos> source <eos>`, the decoder goes from `<bos>`.

    An imported tokenizer may have another frame, and another token that the decoder starts from.
    """

    def prompt(self, source: Ids, tokenizer: Tokenizer, *, limit: int, reserve: int) -> Ids:
        """`<bos> source <eos>`."""
        before, after = tokenizer.frame
        return framed(before, source[: max(limit - len(before) - len(after), 0)], after)

    def room(self, n_prompt: int, *, limit: int) -> int:
        """The decoder's own sequence, whatever the encoder reads."""
        return limit

    def feature(self, prompt: Ids, answer: Ids, tokenizer: Tokenizer) -> Feature:
        """The decoder's input is the answer moved right by one."""
        moved = np.concatenate(([tokenizer.start_id], answer[:-1]))
        return {"input_ids": prompt, "decoder_input_ids": moved, "labels": answer}


class OneSequence:
    """For a decoder: `<bos> source <sep> answer`; tokens of the prompt are not trained on."""

    def prompt(self, source: Ids, tokenizer: Tokenizer, *, limit: int, reserve: int) -> Ids:
        """`<bos> source <sep>`, such that `reserve` tokens can be written after it."""
        kept = source[: max(limit + 1 - reserve - 2, 0)]
        return framed([tokenizer.bos_id], kept, [tokenizer.sep_id])

    def room(self, n_prompt: int, *, limit: int) -> int:
        """Return what the prompt leaves; the last token is generated and never read."""
        return limit + 1 - n_prompt

    def feature(self, prompt: Ids, answer: Ids, tokenizer: Tokenizer) -> Feature:
        """Labels stand where the token before them is read."""
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
        ConfigError: it cannot write.
    """
    for kind, layout in LAYOUTS.items():
        if isinstance(backbone, kind):
            return layout
    raise ConfigError(
        f"{type(backbone).__name__} cannot generate text",
        "an EncoderDecoder or a Decoder",
        "start from a bundle pretrained with denoise or causal_lm",
    )


def framed(before: Sequence[int], ids: Ids, after: Sequence[int]) -> Ids:
    """The ids between others."""
    return np.concatenate((before, ids, after)).astype(np.int64)
