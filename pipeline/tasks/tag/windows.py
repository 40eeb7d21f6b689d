"""Words as tokens, and long rows as windows of whole words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.tokenizer import Tokenizer
from datamodules.words import joined
from pipeline.tasks.scoring import Ints


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a row: `<bos> words <eos>`.

    Args:
        ids: token ids (T,).
        words: indices (W,) of the words that are tagged in this window; each word is tagged in one window.
        places: the index in `ids` of the first token (W,) of each of these words.
        read: indices [first, end) of all words in the window.
    """

    ids: Ints
    words: Ints
    places: Ints
    read: tuple[int, int]


def windows(words: Sequence[str], tokenizer: Tokenizer, *, limit: int, stride: int) -> list[Window]:
    """Encode the words of a row and split it into windows of at most `limit` tokens.

    Each word is encoded by itself with the space before it, so that no token spans two words. A word that is
    longer than a window is truncated. A word that occurs in two windows is tagged in the one where it is
    farther from the edge.

    Args:
        words: the words, at least one.
        tokenizer: the tokenizer; a word that it encodes as nothing becomes `<eos>`.
        limit: the maximum number of tokens of a window.
        stride: the number of tokens by which consecutive windows overlap; at most half of a window.

    Source: Devlin et al. 2019, "BERT", section 5.3 (the first sub-token of a word carries its tag).
    """
    room = limit - 2
    pieces = [piece[:room] for piece in _pieces(words, tokenizer)]
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = ends - [len(piece) for piece in pieces]
    spans: list[tuple[int, int]] = []
    first = 0
    while True:
        last = int(np.searchsorted(ends, starts[first] + room, side="right"))
        spans.append((first, last))
        if last == len(pieces):
            break
        shared = min(stride, room // 2, room - len(pieces[last]))
        first = max(int(np.searchsorted(starts, ends[last - 1] - shared)), first + 1)
    edges = [0, *((first + last) // 2 for (first, _), (_, last) in zip(spans[1:], spans, strict=False))]
    edges.append(len(pieces))
    return [
        _window(pieces, starts, window, (edges[number], edges[number + 1]), tokenizer)
        for number, window in enumerate(spans)
    ]


def _pieces(words: Sequence[str], tokenizer: Tokenizer) -> list[Ints]:
    text, spans = joined(words)
    begins = [0, *(end for _, end in spans[:-1])]
    encoded = tokenizer.encode_batch([text[a:b] for a, (_, b) in zip(begins, spans, strict=True)])
    return [ids.astype(np.int64) if len(ids) else np.array([tokenizer.eos_id]) for ids in encoded]


def _window(
    pieces: list[Ints], starts: Ints, window: tuple[int, int], own: tuple[int, int], tokenizer: Tokenizer
) -> Window:
    (first, last), words = window, np.arange(*own)
    ids = np.concatenate(([tokenizer.bos_id], *pieces[first:last], [tokenizer.eos_id]))
    return Window(ids.astype(np.int64), words, starts[words] - starts[first] + 1, window)
