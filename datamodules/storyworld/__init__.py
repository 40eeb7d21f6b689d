"""The embedded corpus: short stories in three languages, with the exact entropy of the generator.

`concepts` defines ids, for which `lexicon_*` has words and `grammar_*` sentences; `language` compiles both.
`events` and `plot` are the story grammar. `derivation` draws stories, and `chart` computes probabilities,
from any grammar. `views` makes rows of tasks, and `world` has the source `StoryWorld`.
"""

from datamodules.storyworld.chart import split_words
from datamodules.storyworld.world import Entropy, StoryWorld

__all__ = ["Entropy", "StoryWorld", "split_words"]
