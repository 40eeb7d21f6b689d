"""Measure whether attributions find the words that determine the answer, which are known in the story world.

    .venv/bin/python -m benchmarks.explain --bundle runs/NAME/bundles/best

The bundle must have been fine-tuned on the story world for `classify` or `qa`. For test rows with correct
predictions, this measures how often a word that determines the answer is among the five with the highest
attributions. For `qa`, these are the words of the answer in the story; for `classify`, the name of the person
in the sentence in which they get the thing. Prints one line of JSON.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from datamodules.storyworld import StoryWorld
from datamodules.storyworld.views import place_of_label
from pipeline.explain.explanation import explain_row
from pipeline.explain.words import Word
from pipeline.runs.bundle import load_bundle
from pipeline.tasks.scoring import mean_score

#: A column, and the span [start, end) in it that determines the answer.
Carrier = tuple[str, int, int]

N_HIGHEST = 5


def label_carrier(world: StoryWorld, i: int) -> Carrier:
    """Return the span of the story that says who gets the thing."""
    return ("text", *place_of_label(world.tale("test", i)))


def answer_carrier(world: StoryWorld, i: int) -> Carrier:
    """Return the span of the story that answers the question."""
    answers = world.row("test", i)["answers"]
    start = answers["answer_start"][0]
    return "context", start, start + len(answers["text"][0])


CARRIERS: dict[str, Callable[[StoryWorld, int], Carrier]] = {
    "classify": label_carrier,
    "qa": answer_carrier,
}


def carries(word: Word, carrier: Carrier) -> bool:
    """Return whether a word overlaps the span."""
    column, start, end = carrier
    return word.column == column and word.start < end and word.end > start


def measure(folder: Path, *, n_rows: int, n_highest: int = N_HIGHEST) -> dict[str, Any]:
    """Explain the correct predictions among the first test rows."""
    bundle = load_bundle(folder)
    view: str = bundle.config["data"]["view"]
    world = StoryWorld(view=view)
    rows = [world.row("test", i) for i in range(n_rows)]
    predictions = bundle.task.predict(bundle.model, bundle.tokenizer, rows, batch_size=64)
    right = bundle.task.row_scores(predictions, rows) == 1
    found, by_chance, gaps, steps, seconds = [], [], [], [], []
    for i in right.nonzero()[0].tolist():
        began = time.process_time()
        explanation = explain_row(
            bundle.task, bundle.model, bundle.tokenizer, rows[i], prediction=predictions[i]
        )
        seconds.append(time.process_time() - began)
        (decision,) = explanation.decisions
        carrier = CARRIERS[view](world, i)
        found.append(any(carries(word, carrier) for word in decision.strongest(n_highest)))
        drawn = random.Random(i).sample(list(decision.words), min(n_highest, len(decision.words)))
        by_chance.append(any(carries(word, carrier) for word in drawn))
        gaps.append(decision.gap)
        steps.append(decision.n_steps)
    share = mean_score(found)
    return {
        "task": view,
        "rows": n_rows,
        "right": len(found),
        f"among_{n_highest}_highest": share.value,
        "interval": [share.low, share.high],
        "by_chance": round(sum(by_chance) / len(by_chance), 4),
        "largest_gap": max(gaps),
        "median_steps": median(steps),
        "most_steps": max(steps),
        "median_processor_s": round(median(seconds), 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a bundle, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True, help="a fine-tuned bundle's folder")
    parser.add_argument("--rows", type=int, default=200, help="number of test rows (200)")
    given = parser.parse_args(arguments)
    print(json.dumps(measure(given.bundle, n_rows=given.rows)))


if __name__ == "__main__":
    main()
