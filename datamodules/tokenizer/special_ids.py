"""The ids of a tokenizer's special tokens, by their roles."""

import numpy as np
import numpy.typing as npt

from datamodules.errors import TokenizerError
from datamodules.tokenizer.special import N_SENTINELS, N_SPECIAL_TOKENS, SPECIAL_TOKENS

#: The purpose of each role, for error messages.
_ROLE_USES = {
    "pad": "padding",
    "bos": "the beginning of a text",
    "eos": "the end of a text",
    "unk": "unknown words",
    "mask": "masked words (masked_lm)",
    "sep": "the separation of two texts",
    "cls": "the representation of a whole text",
}


class SpecialIds:
    """The special ids of a tokenizer: by role, and before and after a text or a turn of a dialogue."""

    #: Whether each id (V,) is special.
    _special: npt.NDArray[np.bool_]
    #: Role -> id; None if the vocabulary has no token for it.
    _roles: dict[str, int | None]

    @property
    def special_ids(self) -> list[int]:
        """Ids of all special tokens, including sentinels."""
        return np.flatnonzero(self._special).tolist()

    @property
    def sentinel_ids(self) -> list[int]:
        """Ids of `<extra_0>`, `<extra_1>`, ... for span denoising."""
        return list(range(N_SPECIAL_TOKENS - N_SENTINELS, N_SPECIAL_TOKENS))

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        return self._id_of("pad")

    @property
    def bos_id(self) -> int:
        """The id at the beginning of a text."""
        return self._id_of("bos")

    @property
    def eos_id(self) -> int:
        """The id at the end of a text, also of generated text."""
        return self._id_of("eos")

    @property
    def unk_id(self) -> int:
        """The id of anything that is not in the vocabulary."""
        return self._id_of("unk")

    @property
    def mask_id(self) -> int:
        """The id that replaces a masked token."""
        return self._id_of("mask")

    @property
    def sep_id(self) -> int:
        """The id between two texts."""
        return self._id_of("sep")

    @property
    def cls_id(self) -> int:
        """The id whose hidden state represents a whole text."""
        return self._id_of("cls")

    @property
    def start_id(self) -> int:
        """The id from which the decoder of an encoder-decoder starts."""
        return self.bos_id

    def has(self, role: str) -> bool:
        """Return whether there is a token with this role: pad, bos, eos, unk, mask, sep or cls."""
        return self._roles.get(role) is not None

    def _id_of(self, role: str) -> int:
        found = self._roles[role]
        if found is None:
            raise TokenizerError(
                f"the tokenizer has no {role} token",
                f"a vocabulary with a token for {_ROLE_USES[role]}",
                "choose a task that does not need it, or a model whose tokenizer has it",
            )
        return found

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids before and after a single text."""
        return [self.bos_id], [self.eos_id]

    def turn_frame(self, role: str) -> tuple[list[int], list[int]]:
        """Return the ids before and after a turn of a dialogue; `role` is user, assistant or system.

        A turn of the assistant ends with `eos_id`, which may be followed by other ids.
        """
        start = [SPECIAL_TOKENS.index(f"<{role}>")]
        return start, [self.eos_id] if role == "assistant" else []
