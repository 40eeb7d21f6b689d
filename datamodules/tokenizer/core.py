"""The tokenizer: lossless, byte-level, and with the same special ids in every vocabulary."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tokenizers

from datamodules.errors import TokenizerError
from datamodules.files import write_whole
from datamodules.tokenizer import pretokens
from datamodules.tokenizer.offsets import character_spans
from datamodules.tokenizer.special import (
    N_BYTES,
    N_SPECIAL_TOKENS,
    ROLES,
    SPECIAL_TOKENS,
)
from datamodules.tokenizer.special_ids import SpecialIds
from datamodules.tokenizer.text import check_text, one_line
from datamodules.tokenizer.vocabulary import OURS, printable, read_vocabulary

TokenIds = npt.NDArray[np.int32]

_GROUP_CHARACTERS = 1 << 21


class Tokenizer(SpecialIds):
    """Converts text to token ids and back; `decode(encode(text)) == text` for every Unicode text.

    Create one with a trainer (`ByteLevelBPE`, `WordPiece`, `Unigram`, `Bytes`), `from_file` or `from_json`.
    Special tokens in a text ("<pad>") are plain text: `encode` never returns a special id.

    `target` is the tokenizer of generated text; it is this tokenizer itself unless `with_target` set another
    one: text-to-text tasks may have a vocabulary for each side.
    """

    #: Whether the ids represent every byte of a text, so that bits per byte can be computed.
    is_exact = True

    def __init__(self, engine: tokenizers.Tokenizer, target: "Tokenizer | None" = None) -> None:
        """Wrap an engine whose vocabulary begins with the special tokens.

        Raises:
            TokenizerError: if the engine was not made by Prelude.
        """
        pieces, word_starts = read_vocabulary(engine)
        roles = {role: SPECIAL_TOKENS.index(f"<{role}>") for role in ROLES}
        self._set_up(engine, target, pieces, word_starts, range(N_SPECIAL_TOKENS), roles)
        self._is_bytes = self.vocab_size == N_SPECIAL_TOKENS + N_BYTES

    def _set_up(
        self,
        engine: tokenizers.Tokenizer,
        target: "Tokenizer | None",
        pieces: Sequence[bytes],
        word_starts: npt.NDArray[np.bool_],
        special_ids: Iterable[int],
        roles: Mapping[str, int | None],
    ) -> None:
        """Store the facts about the vocabulary."""
        self._engine = engine
        self.target: Tokenizer = self if target is None else target
        # This is not part of the saved file: "<pad>" in a text must be encoded as five characters.
        self._engine.encode_special_tokens = True
        self._pieces, self.word_starts = list(pieces), word_starts
        self.vocab_size = len(self._pieces)
        self.kind: str = type(engine.model).__name__
        self._special = np.zeros(self.vocab_size, dtype=np.bool_)
        self._special[list(special_ids)] = True
        lengths = np.array([len(piece) for piece in self._pieces], dtype=np.int64)
        self.token_bytes: npt.NDArray[np.int64] = np.where(self._special, 0, lengths)
        self._roles = dict(roles)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Load from the text of a `tokenizer.json`.

        Raises:
            TokenizerError: if the text is not a tokenizer made by Prelude.
        """
        try:
            engine = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception for any invalid text
            raise TokenizerError(
                f"the tokenizer cannot be read: {one_line(error)}",
                OURS,
                "train a new one with `make tokenizer`",
            ) from error
        return cls(engine)

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Load a saved `tokenizer.json`, and the `target_tokenizer.json` next to it if there is one.

        A `special_tokens.json` next to it marks an imported tokenizer.

        Raises:
            TokenizerError: if there is no such file, or it is not a tokenizer made by Prelude or imported.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise TokenizerError(f"tokenizer file {path}: {reason}", OURS, "check the path") from error
        try:
            tokenizer = _read(text, Path(path))
        except TokenizerError as error:
            raise TokenizerError(
                f"tokenizer file {path}: {error.problem}", error.expected, error.remedy
            ) from error
        target = _target_file(Path(path))
        return tokenizer.with_target(cls.from_file(target)) if target.exists() else tokenizer

    def with_target(self, target: "Tokenizer") -> Self:
        """Return this tokenizer with another one for generated text."""
        return type(self)(self._engine, target)

    @property
    def has_own_target(self) -> bool:
        """Whether generated text has a different vocabulary."""
        return self.target is not self

    def to_json(self) -> str:
        """Return the text of the `tokenizer.json`, which is always the same for the same tokenizer."""
        return self._engine.to_str(pretty=True)

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json` atomically, and a separate target to `target_tokenizer.json` next to it.

        Raises:
            TokenizerError: if the folder cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path)
            if self.has_own_target:
                write_whole(_target_file(path), self.target.to_json())
        except OSError as error:
            raise TokenizerError(
                f"tokenizer file {path} cannot be written: {error.strerror}",
                "a folder that can be written, with free space",
                "choose another folder, or free some space",
            ) from error

    def _write(self, path: Path) -> None:
        write_whole(path, self.to_json())

    @property
    def digest(self) -> str:
        """The sha256 of the canonical JSON; equal digests mean equal ids for every text."""
        canonical = json.dumps(json.loads(self._engine.to_str()), sort_keys=True, separators=(",", ":"))
        if self.has_own_target:
            canonical += self.target.digest
        return hashlib.sha256(canonical.encode()).hexdigest()

    @cached_property
    def folded_ids(self) -> npt.NDArray[np.int64]:
        """A number (V,) equal for tokens that differ only in case and spaces; 0 without letters or digits."""
        numbers: dict[str, int] = {}
        texts = (piece.decode("utf-8", "ignore").strip().casefold() for piece in self._pieces)
        return np.array(
            [
                numbers.setdefault(text, len(numbers) + 1) if any(map(str.isalnum, text)) else 0
                for text in texts
            ]
        )

    def encode(self, text: str) -> TokenIds:
        """Encode one text without adding special tokens.

        Raises:
            TokenizerError: if the text contains a lone surrogate, which UTF-8 cannot represent.
        """
        return self.encode_batch([text])[0]

    def encode_with_offsets(self, text: str) -> tuple[TokenIds, TokenIds, TokenIds]:
        """Encode one text; return ids, and the start and end of each token's span of characters, each (L,).

        The spans cover the text in order; a token that is a part of a character has the span of that
        character.

        Raises:
            TokenizerError: like `encode`.
        """
        ids = self.encode(text)
        return ids, *character_spans(text, self.token_bytes[ids])

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Encode many texts at once, of any length, on all cores.

        Raises:
            TokenizerError: like `encode`.
        """
        for number, text in enumerate(texts):
            check_text(text, number)
        if self._is_bytes:
            return [
                np.frombuffer(text.encode(), np.uint8).astype(np.int32) + N_SPECIAL_TOKENS for text in texts
            ]
        return self._encode_slices(texts)

    def _encode_slices(self, texts: Sequence[str]) -> list[TokenIds]:
        parts: list[list[TokenIds]] = [[] for _ in texts]
        group: list[str] = []
        owners: list[int] = []
        n_characters = 0

        def flush() -> None:
            encodings = self._engine.encode_batch_fast(group, add_special_tokens=False)
            for owner, encoding in zip(owners, encodings, strict=True):
                parts[owner].append(np.array(encoding.ids, dtype=np.int32))
            group.clear()
            owners.clear()

        for owner, text in enumerate(texts):
            for part in pretokens.slices(text):
                group.append(part)
                owners.append(owner)
                n_characters += len(part)
                if n_characters >= _GROUP_CHARACTERS:
                    flush()
                    n_characters = 0
        flush()
        return [part[0] if len(part) == 1 else np.concatenate(part) for part in parts]

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Decode ids to text; incomplete characters become U+FFFD.

        Raises:
            TokenizerError: if an id is outside the vocabulary.
        """
        checked = self._checked(ids)
        kept = (token for token in checked if keep_special or not self._special[token])
        return b"".join(self._pieces[token] for token in kept).decode("utf-8", "replace")

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text that `ids` append to the text of the ids before them."""
        return self.decode(ids)

    def decode_tokens(self, ids: Iterable[int]) -> list[str]:
        """Format each id: spaces as `␣`, line breaks as `⏎`, parts of characters in hexadecimal.

        Raises:
            TokenizerError: if an id is outside the vocabulary.
        """
        return [printable(self._pieces[token]) for token in self._checked(ids)]

    def _checked(self, ids: Iterable[int]) -> list[int]:
        checked = [int(token) for token in ids]
        wrong = next((token for token in checked if not 0 <= token < self.vocab_size), None)
        if wrong is not None:
            raise TokenizerError(
                f"token id {wrong} is not in the vocabulary",
                f"ids from 0 to {self.vocab_size - 1}",
                "use the tokenizer that the ids were made with",
            )
        return checked

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickle as JSON, so that worker processes also encode `<pad>` in a text as plain text."""
        return _unpickled, (self._engine.to_str(), self.target if self.has_own_target else None)


def _read(text: str, path: Path) -> Tokenizer:
    roles = roles_file(path)
    if not roles.exists():
        return Tokenizer.from_json(text)
    from datamodules.tokenizer.foreign import ForeignTokenizer  # imports this module

    return ForeignTokenizer.from_texts(text, roles.read_text(encoding="utf-8"))


def roles_file(path: Path) -> Path:
    """Return the file in which an imported tokenizer stores which of its tokens are special."""
    return path.with_name("special_tokens.json")


def _unpickled(text: str, target: Tokenizer | None) -> Tokenizer:
    tokenizer = Tokenizer.from_json(text)
    return tokenizer if target is None else tokenizer.with_target(target)


def _target_file(path: Path) -> Path:
    return path.with_name(f"target_{path.name}")
