"""The embedded corpus: a world of small stories in three languages, with its exact entropy.

concepts (ids) -> lexicon_xx (words) + grammar_xx (sentences) -> language; events -> plot (the story grammar);
derivation (draw, list) and chart (score, posterior) work on any grammar; views -> world (`StoryWorld`).
"""

from datamodules.storyworld.chart import split_words
from datamodules.storyworld.world import Entropy, StoryWorld

__all__ = ["Entropy", "StoryWorld", "split_words"]
