"""Turns generated tokens into text incrementally: whole characters only, and up to a stop sequence."""

from collections.abc import Callable, Sequence
from typing import Literal

from modules.continuous import NextToken

#: The replacement character, which stands for bytes of an incomplete character.
_INCOMPLETE = "\ufffd"


class TextStream:
    """The text of an answer in pieces, which add up to the whole answer.

    Args:
        decode: a function from ids to their text.
        stops: texts at which the answer ends; they are not part of it.
        strip: whether white space at both ends is removed.
        whole: return the text in one piece at its end.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        *,
        stops: Sequence[str] = (),
        strip: bool = False,
        whole: bool = False,
    ) -> None:
        self._decode = decode
        self._stops = stops
        self._strip = strip
        self._whole = whole
        self._ids: list[int] = []
        self._returned = ""
        self.ended: Literal["stop", "length"] | None = None

    @property
    def n_tokens(self) -> int:
        """The number of generated tokens."""
        return len(self._ids)

    def push(self, step: NextToken) -> str:
        """Return what another token adds to the text."""
        if step.token is not None:
            self._ids.append(step.token)
        self.ended = step.ended
        if self._whole and not self._stops and self.ended is None:
            return ""
        text = self._decode(self._ids)
        text = text.lstrip() if self._strip else text
        if (place := min((at for at in map(text.find, self._stops) if at >= 0), default=None)) is not None:
            self.ended, text = "stop", text[:place]
        if self.ended is None:
            text = "" if self._whole else self._settled(text)
        elif self._strip:
            text = text.rstrip()
        piece = text[len(self._returned) :]
        self._returned += piece
        return piece

    def _settled(self, text: str) -> str:
        """Return the part of the text that further tokens cannot change."""
        text = text.rstrip(_INCOMPLETE)
        text = text.rstrip() if self._strip else text
        for stop in self._stops:
            held = next((n for n in range(len(stop) - 1, 0, -1) if text.endswith(stop[:n])), 0)
            text = text[: len(text) - held]
        return text
