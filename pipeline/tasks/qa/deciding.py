"""The window that decided an answer, where its tokens stand, and how sure the model was of it."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from datamodules.tokenizer import Tokenizer
from pipeline.tasks.explaining import Place, places_of
from pipeline.tasks.qa.windows import Passage, Window


def deciding_window(
    windows: Sequence[Window], logits: Mapping[int, Float[Tensor, "T 2"]], answer: tuple[int, int] | None
) -> tuple[int, tuple[int, int]]:
    """The number of the window that decided, and the first and last place of the answer in it.

    Args:
        windows: of one row.
        logits: of each window, by its number.
        answer: first and last token of the passage; None: there is no answer, and what decides is the window
            where that is the least likely.
    """
    spans = [(window.null, window.null) if answer is None else window.span(*answer) for window in windows]
    able = [n for n, window in enumerate(windows) if answer is None or spans[n][0] != window.null]
    scores = {n: float(logits[n][spans[n][0], 0] + logits[n][spans[n][1], 1]) for n in able}
    best = (min if answer is None else max)(able, key=scores.__getitem__)
    return best, spans[best]


def span_score(logits: Float[Tensor, "B T 2"], *, span: tuple[int, int]) -> Float[Tensor, " B"]:
    """The sum of the log-probabilities of the first and the last token of an answer."""
    shares = logits.log_softmax(dim=1)
    return shares[:, span[0], 0] + shares[:, span[1], 1]


def window_places(
    window: Window, question: str, passage: Passage, tokenizer: Tokenizer
) -> list[Place | None]:
    """Where each token of a window stands in the question or in the context."""
    n_asked = window.passage_start - 2
    n_part = window.null - window.passage_start
    _, starts, ends = tokenizer.encode_with_offsets(question)
    part = slice(window.first_token, window.first_token + n_part)
    return [
        None,
        *places_of("question", starts[:n_asked], ends[:n_asked]),
        None,
        *places_of("context", passage.starts[part], passage.ends[part]),
        None,
    ]
