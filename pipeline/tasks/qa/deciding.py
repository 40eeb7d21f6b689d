"""The window that decides an answer, the places of its tokens, and the score of the answer."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from datamodules.tokenizer import Tokenizer
from pipeline.tasks.explaining import Place, places_of
from pipeline.tasks.qa.windows import Passage, Window


def deciding_window(
    windows: Sequence[Window], logits: Mapping[int, Float[Tensor, "T 2"]], answer: tuple[int, int] | None
) -> tuple[int, tuple[int, int]]:
    """Return the index of the window that decides, and the first and last index of the answer in it.

    Args:
        windows: the windows of one row.
        logits: the logits of each window, by index.
        answer: the first and last token of the answer in the passage; None: there is no answer, and the
            window in which that is least likely decides.
    """
    spans = [(window.null, window.null) if answer is None else window.span(*answer) for window in windows]
    able = [n for n, window in enumerate(windows) if answer is None or spans[n][0] != window.null]
    scores = {n: float(logits[n][spans[n][0], 0] + logits[n][spans[n][1], 1]) for n in able}
    best = (min if answer is None else max)(able, key=scores.__getitem__)
    return best, spans[best]


def span_score(logits: Float[Tensor, "B T 2"], *, span: tuple[int, int]) -> Float[Tensor, " B"]:
    """Return the sum of the log-probabilities of the first and the last token of an answer."""
    shares = logits.log_softmax(dim=1)
    return shares[:, span[0], 0] + shares[:, span[1], 1]


def window_places(
    window: Window, question: str, passage: Passage, tokenizer: Tokenizer
) -> list[Place | None]:
    """Return the characters of the question or the context that each token of a window covers."""
    n_question = window.passage_start - 2
    n_part = window.null - window.passage_start
    _, starts, ends = tokenizer.encode_with_offsets(question)
    part = slice(window.first_token, window.first_token + n_part)
    return [
        None,
        *places_of("question", starts[:n_question], ends[:n_question]),
        None,
        *places_of("context", passage.starts[part], passage.ends[part]),
        None,
    ]
