"""Lossless conversion of text to token ids and back; train, save and load four kinds of tokenizer."""

from datamodules.tokenizer.core import Tokenizer
from datamodules.tokenizer.foreign import ForeignTokenizer, SpecialTokens
from datamodules.tokenizer.special import N_SPECIAL_TOKENS, SPECIAL_TOKENS
from datamodules.tokenizer.trainers import (
    ByteLevelBPE,
    Bytes,
    TokenizerFile,
    TokenizerTrainer,
    Unigram,
    WordPiece,
)

__all__ = [
    "N_SPECIAL_TOKENS",
    "SPECIAL_TOKENS",
    "ByteLevelBPE",
    "Bytes",
    "ForeignTokenizer",
    "SpecialTokens",
    "Tokenizer",
    "TokenizerFile",
    "TokenizerTrainer",
    "Unigram",
    "WordPiece",
]
