"""Trainers of the four kinds of tokenizer, and one that reads a file; a configuration names one of them."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import tokenizers
from tokenizers import AddedToken, decoders, models, trainers

from datamodules.errors import TokenizerError
from datamodules.tokenizer import pretokens
from datamodules.tokenizer.core import Tokenizer
from datamodules.tokenizer.special import (
    BYTE_ALPHABET,
    CONTINUES,
    N_BYTES,
    N_SPECIAL_TOKENS,
    SPECIAL_TOKENS,
)
from datamodules.tokenizer.text import check_text

_N_FIXED = N_SPECIAL_TOKENS + N_BYTES
_MIN_FREQUENCY = 2
_SCORE_DIGITS = 6
_FIXED = (*SPECIAL_TOKENS, *BYTE_ALPHABET)


class TokenizerTrainer(Protocol):
    """The interface of trainers; classes that a configuration may name are subclasses."""

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Train a tokenizer; the same texts give the same tokenizer."""
        ...

    def describe(self) -> dict[str, str | int]:
        """Return everything except the texts that determines the result, for cache keys."""
        ...


@dataclass(frozen=True)
class ByteLevelBPE(TokenizerTrainer):
    """Byte-level byte-pair encoding: merges the most frequent pair of pieces until the vocabulary is full.

    Args:
        vocab_size: maximum number of pieces, including the 42 special tokens and 256 bytes.

    Raises:
        TokenizerError: if `vocab_size` has no room for the special tokens and bytes.

    Source: Sennrich et al. 2016, Neural Machine Translation of Rare Words with Subword Units, section 3.2;
    on bytes: Radford et al. 2019, section 2.2.
    """

    vocab_size: int

    def __post_init__(self) -> None:
        _check_room(self.vocab_size, _N_FIXED)

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Train on the texts.

        Raises:
            TokenizerError: if the texts are empty.
        """
        engine = tokenizers.Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=_MIN_FREQUENCY,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=list(BYTE_ALPHABET),
            show_progress=False,
        )
        trained = _trained_model(engine, trainer, texts)
        learned = [left + right for left, right in trained["merges"]]
        pieces = list(dict.fromkeys((*_FIXED, *learned)))
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        return _assemble(models.BPE(vocabulary, [(left, right) for left, right in trained["merges"]]))

    def describe(self) -> dict[str, str | int]:
        """Return everything except the texts that determines the result."""
        return _described(self, vocab_size=self.vocab_size)


@dataclass(frozen=True)
class WordPiece(TokenizerTrainer):
    """WordPiece: cuts words greedily into the longest known pieces, and marks those that continue a word.

    There are no unknown words: every byte is in the vocabulary, as a beginning and as a continuing piece.

    Args:
        vocab_size: maximum number of pieces, including the 42 special tokens and twice the 256 bytes.

    Raises:
        TokenizerError: if `vocab_size` has no room for the special tokens and bytes.

    Source: Devlin et al. 2019, BERT, section 3; Wu et al. 2016, section 4.1.
    """

    vocab_size: int

    def __post_init__(self) -> None:
        _check_room(self.vocab_size, _N_FIXED + N_BYTES)

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Train on the texts.

        Raises:
            TokenizerError: if the texts are empty.
        """
        continuing = [CONTINUES + character for character in BYTE_ALPHABET]
        engine = tokenizers.Tokenizer(models.WordPiece())
        trainer = trainers.WordPieceTrainer(
            vocab_size=self.vocab_size,
            min_frequency=_MIN_FREQUENCY,
            # Continuing bytes are listed because the trainer would number them in an order that changes
            # between runs, and ties between merges are broken by number.
            special_tokens=[*SPECIAL_TOKENS, *continuing],
            initial_alphabet=list(BYTE_ALPHABET),
            continuing_subword_prefix=CONTINUES,
            show_progress=False,
        )
        trained = _trained_model(engine, trainer, texts)["vocab"]
        pieces = dict.fromkeys((*_FIXED, *continuing, *sorted(trained, key=lambda piece: trained[piece])))
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        return _assemble(
            models.WordPiece(
                vocabulary,
                unk_token="<unk>",
                continuing_subword_prefix=CONTINUES,
                # The pattern limits the length of words; a limit here would only cause unknown tokens.
                max_input_chars_per_word=1_000_000,
            )
        )

    def describe(self) -> dict[str, str | int]:
        """Return everything except the texts that determines the result."""
        return _described(self, vocab_size=self.vocab_size)


@dataclass(frozen=True)
class Unigram(TokenizerTrainer):
    """Unigram language model: cuts a word in the most probable way.

    Args:
        vocab_size: maximum number of pieces, including the 42 special tokens and 256 bytes.

    Raises:
        TokenizerError: if `vocab_size` has no room for the special tokens and bytes.

    Source: Kudo 2018, Subword Regularization, section 3.2.
    """

    vocab_size: int

    def __post_init__(self) -> None:
        _check_room(self.vocab_size, _N_FIXED)

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Train on the texts.

        Raises:
            TokenizerError: if the texts are empty.
        """
        engine = tokenizers.Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=self.vocab_size - N_SPECIAL_TOKENS,
            initial_alphabet=list(BYTE_ALPHABET),
            show_progress=False,
        )
        trained = dict(_trained_model(engine, trainer, texts)["vocab"])
        scores = _stable_scores(trained)
        learned = sorted(scores.keys() - set(BYTE_ALPHABET), key=lambda piece: (-scores[piece], piece))
        lowest = min(scores.values())
        vocabulary = [(piece, lowest) for piece in SPECIAL_TOKENS]
        vocabulary += [(piece, scores[piece]) for piece in (*BYTE_ALPHABET, *learned)]
        return _assemble(models.Unigram(vocabulary, unk_id=SPECIAL_TOKENS.index("<unk>")))

    def describe(self) -> dict[str, str | int]:
        """Return everything except the texts that determines the result."""
        return _described(self, vocab_size=self.vocab_size)


@dataclass(frozen=True)
class Bytes(TokenizerTrainer):
    """One token per byte, without training: byte b has the id 42 + b."""

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Return the tokenizer; the texts are not read."""
        return _assemble(models.BPE({piece: number for number, piece in enumerate(_FIXED)}, []))

    def describe(self) -> dict[str, str | int]:
        """Return everything that determines the result."""
        return _described(self)


@dataclass(frozen=True)
class TokenizerFile(TokenizerTrainer):
    """A tokenizer that has already been trained.

    Args:
        path: its `tokenizer.json`.
    """

    path: str

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """Load the tokenizer; the texts are not read.

        Raises:
            TokenizerError: if there is no such file, or it is not a tokenizer made by Prelude.
        """
        return Tokenizer.from_file(self.path)

    def describe(self) -> dict[str, str | int]:
        """Return the digest of the tokenizer, but not its path, which does not affect the result.

        Raises:
            TokenizerError: like `train`.
        """
        return {"kind": type(self).__name__, "digest": Tokenizer.from_file(self.path).digest}


def _described(trainer: object, **options: int) -> dict[str, str | int]:
    return {
        "kind": type(trainer).__name__,
        "pattern": pretokens.PATTERN,
        "library": tokenizers.__version__,
        **options,
    }


def _assemble(model: models.Model) -> Tokenizer:
    engine = tokenizers.Tokenizer(model)
    engine.pre_tokenizer = pretokens.pre_tokenizer()
    engine.decoder = decoders.Sequence([decoders.Replace(CONTINUES, ""), decoders.ByteLevel()])
    engine.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return Tokenizer(engine)


def _trained_model(
    engine: tokenizers.Tokenizer, trainer: trainers.Trainer, texts: Iterable[str]
) -> dict[str, Any]:
    """Train with the library, and return its description of the model."""
    feed = _slices(texts)
    first = next(feed, None)
    if first is None:
        raise TokenizerError(
            "there is no text to train a tokenizer on",
            "at least one row with text",
            "check the corpus and its column",
        )
    engine.pre_tokenizer = pretokens.pre_tokenizer()
    engine.train_from_iterator(itertools.chain([first], feed), trainer)
    model: dict[str, Any] = json.loads(engine.to_str())["model"]
    return model


def _slices(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        check_text(text, number)
        if text:
            yield from pretokens.slices(text)


def _stable_scores(trained: dict[str, float]) -> dict[str, float]:
    """Remove what differs between runs from the scores: their last digits, and the order of rare bytes.

    The library sums in the order of a hash table. In that order, it gives each byte that it would have
    dropped the lowest score plus another ten-thousandth.
    """
    lowest = round(min(trained.values()), _SCORE_DIGITS)
    margin = lowest + 2e-4 * N_BYTES
    return {
        piece: lowest if len(piece) == 1 and score < margin else round(score, _SCORE_DIGITS)
        for piece, score in trained.items()
    }


def _check_room(vocab_size: int, smallest: int) -> None:
    if vocab_size < smallest:
        raise TokenizerError(
            f"vocab_size {vocab_size} has no room for the special tokens and all bytes",
            f"at least {smallest}",
            f"set tokenizer.vocab_size={smallest} or more, or choose tokenizer=bytes",
        )
