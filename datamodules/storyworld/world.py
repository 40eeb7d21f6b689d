"""The source `StoryWorld`, which generates the embedded corpus, and its exact entropy."""

import json
from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b, sha256
from math import inf, log2, sqrt
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from datamodules.errors import DataError
from datamodules.source import Source
from datamodules.storyworld import views
from datamodules.storyworld.chart import Accepts, Chart, normalised, split_words
from datamodules.storyworld.derivation import draw
from datamodules.storyworld.language import CODES, Code, language
from datamodules.storyworld.plot import Plot
from datamodules.storyworld.views import Draw, Row, Split, Tale

if TYPE_CHECKING:
    from datamodules.corpus import Columns, Corpus

VERSION = "1"
"""Version of the stories; changed whenever a story changes, and a part of every seed and fingerprint."""

VIEWS_VERSION = "4"
"""Version of the views; changed when rows change but stories do not, and a part of their fingerprints."""

_N_TEST_ROWS = 1_000

_PLOT = Plot()


class Entropy(NamedTuple):
    """Sampled estimates of the information per story and the bits per byte, with standard errors."""

    bits_per_story: float
    bits_per_story_error: float
    bits_per_byte: float
    bits_per_byte_error: float


class StoryWorld(Source):
    """A generator of short stories in English, German and Chinese, of any number.

    Row i depends only on (seed, split, i). Splits share no texts: a story has at least 60 bits of
    information, so that none is drawn twice by chance, and excerpts (view `translate`) are assigned to splits
    by hash.

    Args:
        n_train_rows: number of training rows.
        n_validation_rows: number of validation rows.
        n_test_rows: number of test rows; None: 1,000, but 0 for the view `story`.
        seed: the seed of the stories.
        languages: relative weights of en, de and zh; None: 2, 1 and 1. For `translate`, weights of the
            targets.
        view: the task of the rows.
        unanswerable: fraction of questions (view `qa`) about a thing that is not in the story.

    Raises:
        DataError: for invalid arguments.
    """

    def __init__(
        self,
        n_train_rows: int = 20_000,
        *,
        n_validation_rows: int = 1_000,
        n_test_rows: int | None = None,
        seed: int = 0,
        languages: dict[Code, float] | None = None,
        view: str = "story",
        unanswerable: float = 0.0,
    ) -> None:
        self.n_rows: dict[Split, int] = {"train": n_train_rows, "validation": n_validation_rows}
        if n_test_rows is None:
            n_test_rows = 0 if view == "story" else _N_TEST_ROWS
        if n_test_rows:
            self.n_rows["test"] = n_test_rows
        self.seed = seed
        self.languages: dict[Code, float] = (
            {"en": 2.0, "de": 1.0, "zh": 1.0} if languages is None else languages
        )
        self.view = view
        self.unanswerable = unanswerable
        self._check()
        total = sum(self.languages.values())
        self._shares = [
            (language(code), self.languages[code] / total) for code in CODES if self.languages.get(code)
        ]

    def _check(self) -> None:
        for split, n in self.n_rows.items():
            if n < 1:
                raise DataError(f"n_{split}_rows={n}", "at least 1 row", f"set n_{split}_rows to 1 or more")
        unknown = sorted(set(self.languages) - set(CODES))
        if unknown:
            raise DataError(f"languages contains {unknown[0]!r}", "en, de or zh", f"leave out {unknown[0]}")
        if any(weight < 0 for weight in self.languages.values()) or not any(self.languages.values()):
            raise DataError(f"languages={self.languages}", "weights of 0 or more, not all 0", "use {en: 1}")
        if self.view not in views.VIEWS:
            raise DataError(
                f"view is {self.view!r}", f"one of {', '.join(views.VIEWS)}", "choose one of these"
            )
        if self.view == "translate" and not self._targets():
            raise DataError(
                "view=translate without de or zh in languages", "a target language", "add de: 1 or zh: 1"
            )
        if not 0 <= self.unanswerable <= 1:
            raise DataError(f"unanswerable={self.unanswerable}", "a fraction from 0 to 1", "use 0.2")

    def _targets(self) -> dict[Code, float]:
        """Return the languages to translate to, with their weights."""
        return {code: self.languages[code] for code in CODES if code != "en" and self.languages.get(code)}

    def load(self, columns: "Columns | None" = None) -> "Corpus":
        """Return all splits as data sets; the required `columns` must be among those of the view.

        Raises:
            DataError: if the view lacks a required column.
        """
        from datasets import Dataset

        from datamodules.corpus import TEXT_ONLY, Corpus

        self._check_columns((columns or TEXT_ONLY).required)
        rows = {split: list(self.rows(split)) for split in self.n_rows}
        return Corpus(
            name=f"storyworld-{self.view}",
            fingerprint=self.fingerprint,
            sources=[self._source(split, rows[split]) for split in rows],
            **{split: Dataset.from_list(some) for split, some in rows.items()},
        )

    def _check_columns(self, required: Sequence[str]) -> None:
        present = views.VIEWS[self.view].columns
        missing = [name for name in required if name not in present]
        if missing:
            fitting = [name for name, view in views.VIEWS.items() if set(required) <= {*view.columns}]
            raise DataError(
                f"data.view={self.view}: its rows have no column '{missing[0]}'",
                f"one of the columns present: {', '.join(present)}",
                f"set data.view={' or '.join(fitting)}" if fitting else "choose another corpus",
            )

    def _source(self, split: Split, rows: list[Row]) -> dict[str, str | int]:
        content = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()
        uri = f"storyworld:{self.view}?seed={self.seed}&version={VERSION}"
        return {"uri": uri, "sha256": sha256(content).hexdigest(), "n_bytes": len(content), "split": split}

    @property
    def fingerprint(self) -> str:
        """The sha256 of everything that the rows depend on: the arguments and the generator's version."""
        parts = {
            "corpus": "storyworld", "version": VERSION, "view": self.view, "seed": self.seed,
            "rows": self.n_rows,
            "languages": {told_in.code: share for told_in, share in self._shares},
            "unanswerable": self.unanswerable,
        }  # fmt: skip
        if self.view != "story":
            parts["views"] = VIEWS_VERSION
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def identity(self) -> str:
        """Return the fingerprint, which needs no rows."""
        return self.fingerprint

    def snapshot(self) -> str:
        """Return the fingerprint, which needs no rows."""
        return self.fingerprint

    def rows(self, split: Split) -> Iterator[Row]:
        """Return all rows of a split, in order."""
        return (self.row(split, i) for i in range(self.n_rows[split]))

    def row(self, split: Split, i: int) -> Row:
        """Return row i of a split, which depends only on (seed, split, i)."""
        random = self._random(split, i)
        draw = Draw(i, split, random, self._tale, self._targets(), self.unanswerable)
        return views.VIEWS[self.view].row(draw)

    def tale(self, split: Split, i: int) -> Tale:
        """Return the story of row i, in every view except `translate`."""
        return self._tale(self._random(split, i))

    def _random(self, split: Split, i: int) -> Random:
        digest = blake2b(f"{VERSION}/{self.seed}/{split}/{i}".encode(), digest_size=8).digest()
        return Random(int.from_bytes(digest, "big"))

    def _tale(self, random: Random) -> Tale:
        shares = [share for _, share in self._shares]
        ((told_in, share),) = random.choices(self._shares, shares)
        story = draw(_PLOT, random)
        return Tale(story, told_in, story.bits - log2(share))

    def information_bits(self, text: str) -> float:
        """Return the exact -log2 of the probability of a text; infinite if it is not a story."""
        words = split_words(text)
        charts = ((Chart(_PLOT, told_in, words), share) for told_in, share in self._shares)
        probability = sum(chart.probability * share for chart, share in charts)
        return -log2(probability) if probability else inf

    def masked_words(
        self, text: str, masked: Collection[int], accepts: Accepts | None = None
    ) -> dict[int, dict[str, float]]:
        """Return the exact probability of each candidate for each masked word, given all unmasked words.

        The best prediction for a masked word is its most probable candidate; no model can be right more
        often.

        Args:
            text: a story.
            masked: positions in `split_words(text)`, whose words are not used.
            accepts: may reject a candidate (position, word), for example by its length in tokens.

        Raises:
            ValueError: if no story agrees with the unmasked words.
        """
        pattern = [None if i in masked else word for i, word in enumerate(split_words(text))]
        found: dict[int, dict[str, float]] = {i: {} for i in masked}
        for told_in, share in self._shares:
            for i, words in Chart(_PLOT, told_in, pattern, accepts).masked_words().items():
                for word, weight in words.items():
                    found[i][word] = found[i].get(word, 0.0) + weight * share
        if not all(found.values()):
            raise ValueError("no story of this world agrees with the words that are not masked")
        return {i: normalised(words) for i, words in found.items()}

    def entropy(self, n_stories: int = 2_000) -> Entropy:
        """Estimate the entropy from newly drawn stories; bits per byte are a ratio estimate."""
        rows = [views.whole_story(self._tale(Random(f"entropy/{self.seed}/{i}"))) for i in range(n_stories)]
        bits, sizes = [row["bits"] for row in rows], [len(row["text"].encode()) for row in rows]
        mean_bits, mean_bytes = sum(bits) / n_stories, sum(sizes) / n_stories
        ratio = mean_bits / mean_bytes
        variance = sum((b - mean_bits) ** 2 for b in bits) / n_stories
        residual = sum((b - ratio * size) ** 2 for b, size in zip(bits, sizes, strict=True)) / n_stories
        return Entropy(mean_bits, sqrt(variance / n_stories), ratio, sqrt(residual / n_stories) / mean_bytes)
