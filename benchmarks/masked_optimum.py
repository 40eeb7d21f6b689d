"""Measure how well a masked language model restores words of stories, compared with the best possible.

    python -m benchmarks.masked_optimum --bundle runs/NAME/bundles/best --rows 200 --seed 0

The stories are the first validation stories of the corpus that the bundle was trained on; those longer than
the model's context are left out and counted. All tokens of 15 % of the words are masked, and the model
replaces each mask by its most probable token. A word is right if all its tokens are. It includes the space
before it if they share a token; in Chinese, it is the smallest number of characters with tokens of their own,
mostly one or two.

The optimum is exact: the probability of every candidate is summed over all stories that agree with the
unmasked tokens, their number, and the word boundaries (which the model does not see). The results are

    model             fraction of words that the model restores
    optimal_guesser   fraction that the most probable candidates restore, on the same words
    optimum           mean probability of the most probable candidates, the best that can be expected
    short_of_optimum  optimum - model

each with a 95 % bootstrap interval over stories (percentiles; null with fewer than two stories), for all
stories and for each language. Standard output has one line of JSON, and standard error the messages.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import bootstrap  # type: ignore[import-untyped]

from benchmarks.arguments import count
from benchmarks.hidden_words import HiddenWords, best, hide, posterior
from datamodules.cleaning import Cleaner
from datamodules.storyworld import StoryWorld
from modules.model import Model
from pipeline.config.construct import construct
from pipeline.errors import BundleError, UserError
from pipeline.runs.bundle import Bundle, load_bundle
from pipeline.runs.find import find_bundle
from pipeline.tasks.masked_lm import MaskedLM

RATE = 0.15
STORY_WORLD = "datamodules.storyworld.StoryWorld"
CLEANER = "datamodules.cleaning.Cleaner"
N_RESAMPLES = 2000

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Score:
    """The counts of one story: its masked words, and how many were restored."""

    language: str
    n_words: int
    n_model: int
    n_guesser: int
    expected: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one line of JSON, and return the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        print(json.dumps(measure(parsed.bundle, n_rows=parsed.rows, seed=parsed.seed), ensure_ascii=False))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(bundle_name: str, *, n_rows: int, seed: int) -> dict[str, Any]:
    """Return the results of a bundle on `n_rows` stories; `seed` selects the masked words.

    Raises:
        BundleError: if the bundle is unfinished, not a masked language model, or not of the story world.
    """
    started = time.monotonic()
    bundle = load_bundle(find_bundle(bundle_name, Path("runs")))
    world = story_world(bundle)
    scores: list[Score] = []
    n_too_long = 0
    for score in _scores(bundle, world, seed=seed):
        n_too_long += score is None
        scores += [score] if score else []
        if len(scores) % 20 == 0:
            print(f"{len(scores)} of {n_rows} stories", file=sys.stderr)
        if len(scores) == n_rows:
            break
    if not scores:
        problem = f"the {n_too_long} validation stories are all longer than {bundle.folder} reads"
        raise BundleError(problem, "a model that reads 200 tokens or more", "train with size.max_seq_len=256")
    languages = sorted({score.language for score in scores})
    return {
        "benchmark": "masked_optimum",
        "bundle": str(bundle.folder),
        "step": bundle.provenance["step"],
        "seed": seed,
        "rate": RATE,
        "rows_too_long": n_too_long,
        "overall": figures(scores),
        "languages": {code: figures([s for s in scores if s.language == code]) for code in languages},
        "seconds": round(time.monotonic() - started, 1),
    }


def story_world(bundle: Bundle) -> StoryWorld:
    """Return the world that a masked language model was trained on.

    Raises:
        BundleError: if it is another kind of model, or was trained on other text.
    """
    # Targets are checked before anything is built, since the configuration may come from anywhere.
    data, cleaning = bundle.config["data"], bundle.config["cleaning"]
    if not isinstance(bundle.task, MaskedLM):
        problem = f"{bundle.folder} was trained for {type(bundle.task).__name__}"
        raise BundleError(problem, "a masked language model", "train one with `make pretrain-masked_lm`")
    if data["_target_"] != STORY_WORLD or data.get("view", "story") != "story":
        problem = f"{bundle.folder} was not trained on stories of the story world"
        raise BundleError(problem, "data=storyworld", "train one with `make pretrain-masked_lm`")
    if cleaning["_target_"] != CLEANER or replace(construct(cleaning), deduplicate=False) != Cleaner():
        problem = f"{bundle.folder} was trained on stories that were changed by cleaning"
        raise BundleError(problem, "stories as they are", "train without cleaning.* keys")
    world: StoryWorld = construct(data)
    return world


def _scores(bundle: Bundle, world: StoryWorld, *, seed: int) -> Iterator[Score | None]:
    """Yield the score of each validation story, or None if it is longer than the model's context."""
    for i, row in enumerate(world.rows("validation")):
        random = np.random.default_rng((seed, i))
        story = hide(row["text"], bundle.tokenizer, rate=RATE, random=random)
        fits = len(story.ids) + 2 <= bundle.model.backbone.max_seq_len
        yield _score(bundle, world, story, row["language"]) if fits else None


def _score(bundle: Bundle, world: StoryWorld, story: HiddenWords, language: str) -> Score:
    filled = fill(bundle, story)
    guesses = {unit: best(words) for unit, words in posterior(world, story, bundle.tokenizer).items()}
    return Score(
        language=language,
        n_words=len(story.hidden),
        n_model=sum(filled[u.first_token : u.end_token] == story.tokens(u) for u in story.hidden),
        n_guesser=sum(guess == story.truth(unit) for unit, (guess, _) in guesses.items()),
        expected=sum(probability for _, probability in guesses.values()),
    )


@torch.inference_mode()
def fill(bundle: Bundle, story: HiddenWords) -> tuple[int, ...]:
    """Return the tokens of a story, with the most probable ordinary token in place of each mask."""
    tokenizer, model = bundle.tokenizer, bundle.model
    masked = list(story.ids)
    for unit in story.hidden:
        masked[unit.first_token : unit.end_token] = [tokenizer.mask_id] * (unit.end_token - unit.first_token)
    logits = _logits(model, [tokenizer.bos_id, *masked, tokenizer.eos_id])
    logits[:, tokenizer.special_ids] = -torch.inf
    guessed = logits.argmax(-1).tolist()[1:-1]
    return tuple(
        guess if token == tokenizer.mask_id else token for guess, token in zip(guessed, masked, strict=True)
    )


def _logits(model: Model, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model({"input_ids": torch.tensor([ids])})[0]
    return logits


def figures(scores: Sequence[Score]) -> dict[str, Any]:
    """Return fractions of all words of some stories, with intervals."""
    n_words = np.array([score.n_words for score in scores], float)
    model = np.array([score.n_model for score in scores], float)
    expected = np.array([score.expected for score in scores])
    return {
        "rows": len(scores),
        "words": int(n_words.sum()),
        "model": share(model, n_words),
        "optimal_guesser": share(np.array([score.n_guesser for score in scores], float), n_words),
        "optimum": share(expected, n_words),
        "short_of_optimum": share(expected - model, n_words),
    }


def share(parts: Numbers, wholes: Numbers) -> dict[str, float | None]:
    """Return the sum of parts divided by the sum of wholes, with an interval that resamples whole rows."""
    low = high = None
    if len(parts) > 1:
        interval = bootstrap(
            (parts, wholes),
            _ratio,
            paired=True,
            n_resamples=N_RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        low, high = round(float(interval.low), 4), round(float(interval.high), 4)
    return {"share": round(float(_ratio(parts, wholes)), 4), "low": low, "high": high}


def _ratio(parts: Numbers, wholes: Numbers, axis: int = -1) -> Numbers:
    ratio: Numbers = parts.sum(axis) / wholes.sum(axis)
    return ratio


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.masked_optimum",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", required=True, help="a bundle's folder, the name of a run, or latest")
    parser.add_argument("--rows", type=count, default=200, help="number of stories (200)")
    parser.add_argument("--seed", type=int, default=0, help="selects the masked words (0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
