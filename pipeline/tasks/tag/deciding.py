"""The scores by which a tagger decides, and the characters that the tokens of a window cover."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.tokenizer import Tokenizer
from datamodules.words import joined
from pipeline.tasks.explaining import Decision, Place, places_of
from pipeline.tasks.tag.windows import Window

#: The maximum number of entities of a row that are explained: the least certain ones.
MOST_DECISIONS = 5

_COLUMN = "tokens"


def decisions_of(
    windows: Sequence[Window],
    found: Sequence[dict[str, Any]],
    *,
    tag_names: Sequence[str],
    text: str,
    spans: Sequence[tuple[int, int]],
    tokenizer: Tokenizer,
) -> list[Decision]:
    """Return the decision on each entity, or on each window if there is no entity.

    Args:
        windows: the windows of one row.
        found: the entities, as in the details of a prediction.
        tag_names: the tags in the order of the model's outputs.
        text: the text of the row.
        spans: the characters [start, end) of each word in the text.
        tokenizer: the tokenizer of the model.
    """

    def decision(window: Window, about: str, score: Any) -> Decision:
        return Decision(
            about=about,
            batch={"input_ids": torch.from_numpy(window.ids[None])},
            score=score,
            places=window_places(window, text, spans, tokenizer),
        )

    if not found:
        return [
            decision(window, "that there is no entity", partial(no_entity, places=window.places.tolist()))
            for window in windows[:MOST_DECISIONS]
        ]
    chosen = sorted(found, key=lambda entity: float(entity["confidence"]))[:MOST_DECISIONS]
    decisions = []
    for entity in sorted(chosen, key=lambda entity: int(entity["first_word"])):
        first, end, kind = entity["first_word"], entity["end_word"], entity["type"]
        window = next(one for one in windows if first in one.words)
        words = f"word {first + 1}" if end == first + 1 else f"words {first + 1} to {end}"
        tags = [number for number, tag in enumerate(tag_names) if tag[2:] == kind]
        place = int(window.places[window.words.tolist().index(first)])
        decisions.append(decision(window, f"{kind}, {words}", partial(type_log_odds, place=place, tags=tags)))
    return decisions


def type_log_odds(logits: Float[Tensor, "B T C"], *, place: int, tags: Sequence[int]) -> Float[Tensor, " B"]:
    """Return log(p / (1 - p)), where p is the probability at one token that its tag is one of `tags`."""
    others = [tag for tag in range(logits.shape[-1]) if tag not in tags]
    at = logits[:, place]
    return at[:, list(tags)].logsumexp(dim=1) - at[:, others].logsumexp(dim=1)


def no_entity(logits: Float[Tensor, "B T C"], *, places: Sequence[int]) -> Float[Tensor, " B"]:
    """Return the sum over words of the log-probability of the tag O, which is the first one."""
    return logits[:, list(places)].log_softmax(dim=-1)[..., 0].sum(dim=1)


def window_places(
    window: Window, text: str, spans: Sequence[tuple[int, int]], tokenizer: Tokenizer
) -> list[Place | None]:
    """Return the characters of `text` that each token of a window covers, without the space before a word.

    The model reads the words of a row joined in the standard way, which may differ from `text`.
    """
    words, read = joined([text[start:end] for start, end in spans])
    found: list[Place | None] = [None]
    for number in range(*window.read):
        begin = read[number - 1][1] if number else 0
        blank = read[number][0] - begin
        _, starts, ends = tokenizer.encode_with_offsets(words[begin : read[number][1]])
        start, end = spans[number]
        if len(starts):
            found += places_of(
                _COLUMN, (starts - blank).clip(min=0) + start, (ends - blank).clip(min=0) + start
            )
        else:  # the tokenizer drops the whole word, and `<eos>` replaces it
            found.append(Place(_COLUMN, start, end))
    return [*found[: len(window.ids) - 1], None]
