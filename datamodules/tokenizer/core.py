"""The tokenizer as the rest of the program sees it: exact, byte-level, with the same special ids always."""

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
    N_SENTINELS,
    N_SPECIAL_TOKENS,
    ROLES,
    SPECIAL_TOKENS,
)
from datamodules.tokenizer.text import check_text, one_line
from datamodules.tokenizer.vocabulary import OURS, printable, read_vocabulary

TokenIds = npt.NDArray[np.int32]

_GROUP_CHARACTERS = 1 << 21
#: What each role is for, said where a vocabulary lacks it.
_ROLE_USES = {
    "pad": "padding",
    "bos": "the beginning of a text",
    "eos": "the end of a text",
    "unk": "unknown words",
    "mask": "hidden words (masked_lm)",
    "sep": "what stands between two texts",
    "cls": "a whole text",
}


class Tokenizer:
    """Turns text into token ids and back; `decode(encode(text)) == text` for every Unicode text.

    Build one with a trainer (`ByteLevelBPE`, `WordPiece`, `Unigram`, `Bytes`), `from_file` or `from_json`.
    Special tokens typed by a user ("<pad>") are plain text here: `encode` never gives a special id.

    `target` is the tokenizer of what is written; it is this one, unless `with_target` gave another: text to
    text may have a vocabulary for each side.
    """

    #: Whether the ids hold every byte of a text, so that bits per byte can be told.
    is_exact = True

    def __init__(self, engine: tokenizers.Tokenizer, target: "Tokenizer | None" = None) -> None:
        """Wrap an engine whose vocabulary begins with the special tokens.

        Raises:
            TokenizerError: the engine is not one that this program made.
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
        """Keep what the vocabulary says, whoever made it."""
        self._engine = engine
        self.target: Tokenizer = self if target is None else target
        # Not part of the saved file: "<pad>" in a text must stay five characters.
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
            TokenizerError: the text is not a tokenizer of this program.
        """
        try:
            engine = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception for whatever is wrong in the text
            raise TokenizerError(
                f"the tokenizer cannot be read: {one_line(error)}",
                OURS,
                "train a new one with: make tokenizer",
            ) from error
        return cls(engine)

    @classmethod
    def from_file(cls, path: str | Path) -> "Tokenizer":
        """Load a saved `tokenizer.json`, with the `target_tokenizer.json` beside it where there is one.

        With a `special_tokens.json` beside it the tokenizer is an imported one.

        Raises:
            TokenizerError: there is no such file, or it is not a tokenizer of this program.
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
        beside = _target_file(Path(path))
        return tokenizer.with_target(cls.from_file(beside)) if beside.exists() else tokenizer

    def with_target(self, target: "Tokenizer") -> Self:
        """The same tokenizer for what is read, and another one for what is written."""
        return type(self)(self._engine, target)

    @property
    def has_own_target(self) -> bool:
        """Whether what is written has another vocabulary than what is read."""
        return self.target is not self

    def to_json(self) -> str:
        """Give the text of the `tokenizer.json`; the same tokenizer always gives the same text."""
        return self._engine.to_str(pretty=True)

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json` atomically: `path` holds the old file or the whole new one, never a part.

        A target of its own becomes the file `target_tokenizer.json` beside it.

        Raises:
            TokenizerError: the folder cannot be written.
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
                "choose another folder or make room",
            ) from error

    def _write(self, path: Path) -> None:
        write_whole(path, self.to_json())

    @property
    def digest(self) -> str:
        """Sha256 of the canonical JSON: equal digests mean equal ids for every text."""
        canonical = json.dumps(json.loads(self._engine.to_str()), sort_keys=True, separators=(",", ":"))
        if self.has_own_target:
            canonical += self.target.digest
        return hashlib.sha256(canonical.encode()).hexdigest()

    @cached_property
    def folded_ids(self) -> npt.NDArray[np.int64]:
        """One number (V,) for tokens that differ in case and spaces alone; 0 without a letter or digit."""
        numbers: dict[str, int] = {}
        texts = (piece.decode("utf-8", "ignore").strip().casefold() for piece in self._pieces)
        return np.array(
            [
                numbers.setdefault(text, len(numbers) + 1) if any(map(str.isalnum, text)) else 0
                for text in texts
            ]
        )

    @property
    def special_ids(self) -> list[int]:
        """Ids of all special tokens, sentinels included."""
        return np.flatnonzero(self._special).tolist()

    @property
    def sentinel_ids(self) -> list[int]:
        """Ids of `<extra_0>`, `<extra_1>`, ... for span denoising."""
        return list(range(N_SPECIAL_TOKENS - N_SENTINELS, N_SPECIAL_TOKENS))

    @property
    def pad_id(self) -> int:
        """Fills what is no text; no model sees it."""
        return self._id_of("pad")

    @property
    def bos_id(self) -> int:
        """Begins a text."""
        return self._id_of("bos")

    @property
    def eos_id(self) -> int:
        """Ends a text, and what a model writes."""
        return self._id_of("eos")

    @property
    def unk_id(self) -> int:
        """Stands for what is not in the vocabulary."""
        return self._id_of("unk")

    @property
    def mask_id(self) -> int:
        """Stands for a hidden token."""
        return self._id_of("mask")

    @property
    def sep_id(self) -> int:
        """Stands between two texts."""
        return self._id_of("sep")

    @property
    def cls_id(self) -> int:
        """Stands for a whole text."""
        return self._id_of("cls")

    @property
    def start_id(self) -> int:
        """What the decoder of an encoder-decoder starts from."""
        return self.bos_id

    def has(self, role: str) -> bool:
        """Whether there is a token of that role: pad, bos, eos, unk, mask, sep, cls."""
        return self._roles.get(role) is not None

    def _id_of(self, role: str) -> int:
        found = self._roles[role]
        if found is None:
            raise TokenizerError(
                f"the tokenizer has no {role} token",
                f"a vocabulary with a token for {_ROLE_USES[role]}",
                "choose a task that needs none, or a model whose tokenizer has it",
            )
        return found

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids before and after a text that is read by itself."""
        return [self.bos_id], [self.eos_id]

    def turn_frame(self, role: str) -> tuple[list[int], list[int]]:
        """The ids before and after what one side says; role is user, assistant or system.

        What the assistant says ends in `eos_id`, which may be followed by others.
        """
        start = [SPECIAL_TOKENS.index(f"<{role}>")]
        return start, [self.eos_id] if role == "assistant" else []

    def encode(self, text: str) -> TokenIds:
        """Encode one text; no special tokens are added.

        Raises:
            TokenizerError: the text holds a lone surrogate, which no file and no UTF-8 can hold.
        """
        return self.encode_batch([text])[0]

    def encode_with_offsets(self, text: str) -> tuple[TokenIds, TokenIds, TokenIds]:
        """Encode one text, and give each token's characters [start, end) in it: ids, starts, ends, each (L,).

        The spans cover the text in order; a token that is a part of a character has that character's span.

        Raises:
            TokenizerError: as `encode`.
        """
        ids = self.encode(text)
        return ids, *character_spans(text, self.token_bytes[ids])

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Encode many texts at once, of any length, on all cores.

        Raises:
            TokenizerError: as `encode`.
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
        """Turn ids back into text; bytes that are not whole characters become U+FFFD.

        Raises:
            TokenizerError: an id outside of the vocabulary.
        """
        checked = self._checked(ids)
        kept = (token for token in checked if keep_special or not self._special[token])
        return b"".join(self._pieces[token] for token in kept).decode("utf-8", "replace")

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The text that ids add to that of the ids before them."""
        return self.decode(ids)

    def decode_tokens(self, ids: Iterable[int]) -> list[str]:
        """Give each id in readable form: spaces as `␣`, line ends as `⏎`, parts of characters in hexadecimal.

        Raises:
            TokenizerError: an id outside of the vocabulary.
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
        """Pickle as JSON, so that workers get `<pad>` in a text as plain text too."""
        return _unpickled, (self._engine.to_str(), self.target if self.has_own_target else None)


def _read(text: str, path: Path) -> Tokenizer:
    roles = roles_file(path)
    if not roles.exists():
        return Tokenizer.from_json(text)
    from datamodules.tokenizer.foreign import ForeignTokenizer  # it is made of what this module has

    return ForeignTokenizer.from_texts(text, roles.read_text(encoding="utf-8"))


def roles_file(path: Path) -> Path:
    """Where an imported tokenizer keeps which of its tokens are special."""
    return path.with_name("special_tokens.json")


def _unpickled(text: str, target: Tokenizer | None) -> Tokenizer:
    tokenizer = Tokenizer.from_json(text)
    return tokenizer if target is None else tokenizer.with_target(target)


def _target_file(path: Path) -> Path:
    return path.with_name(f"target_{path.name}")
