"""Text made plainer before anything is learned from it: normal form, punctuation, stop words, privacy."""

from datamodules.cleaning.cleaner import Cleaner

__all__ = ["Cleaner"]
