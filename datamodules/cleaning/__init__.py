"""Clean text before training: normal form, punctuation, stop words, duplicates, personal data."""

from datamodules.cleaning.cleaner import Cleaner

__all__ = ["Cleaner"]
