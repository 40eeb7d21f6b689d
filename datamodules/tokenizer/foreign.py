"""Tokenizers of imported models, read from their `tokenizer.json`, with the same ids as in `tokenizers`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers

from datamodules.errors import TokenizerError
from datamodules.files import write_whole
from datamodules.tokenizer.core import TokenIds, Tokenizer, roles_file
from datamodules.tokenizer.special import BYTE_OF_CHARACTER, ROLES, SPECIAL_TOKENS
from datamodules.tokenizer.text import check_text, one_line
from datamodules.tokenizer.vocabulary import starts_word

_EXPECTED = "a tokenizer.json as the tokenizers library writes it"
_SPACE = "\u2581"
#: Role -> roles whose token can replace a missing one: BERT begins texts with [CLS], GPT-2 with the end
#: token.
_INSTEAD = {"bos": ("cls", "eos"), "eos": ("sep",), "sep": ("eos",), "pad": ("eos",), "cls": ("bos",)}
_CHATML = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Facts about a vocabulary that `tokenizer.json` does not contain.

    Args:
        roles: the token of each role (pad, bos, eos, unk, mask, sep, cls) that the vocabulary has.
        start: the token from which the decoder of an encoder-decoder starts; None: bos.
        n_rows: number of rows of the embedding, if larger than the number of tokens.
        chat_template: the model's template for dialogues, kept for export and never executed.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    start: str | None = None
    n_rows: int = 0
    chat_template: str | None = None


class ForeignTokenizer(Tokenizer):
    """A tokenizer that was not trained by Prelude.

    It returns the same ids as the `tokenizers` library. The text of a special token is split like any other
    text, as with `split_special_tokens=True` there. Depending on its rules, spaces, case or accents may be
    lost. Padding and truncation in the file are ignored, since tasks handle both.
    """

    def __init__(
        self, engine: tokenizers.Tokenizer, special: SpecialTokens, target: Tokenizer | None = None
    ) -> None:
        """Wrap an engine.

        Raises:
            TokenizerError: if it has no end token, or a role names a token that it does not have.
        """
        engine.no_truncation()
        engine.no_padding()
        self.special = special
        rules = json.loads(engine.to_str())
        named = {role: _id(engine, token, role) for role, token in special.roles.items()}
        roles = {role: _stand_in(role, named) for role in ROLES}
        added = {token["content"]: token["id"] for token in rules["added_tokens"] if token["special"]}
        self._added = added
        n_tokens = engine.get_vocab_size(with_added_tokens=True)
        known = [engine.id_to_token(number) for number in range(max(n_tokens, special.n_rows))]
        is_special = {*added.values(), *named.values()} | {i for i, name in enumerate(known) if name is None}
        names = [name or "" for name in known]
        marks = _Marks.of(rules)
        pieces = [_plain(name) if i in is_special else marks.text(name) for i, name in enumerate(names)]
        starts = [i not in is_special and marks.begins_word(name, pieces[i]) for i, name in enumerate(names)]
        self._set_up(engine, target, pieces, np.array(starts, dtype=np.bool_), is_special, roles)
        self._is_bytes = False
        self.is_exact = marks.is_exact
        self._frame = _frame(engine)
        self.start_token_id = None if special.start is None else _id(engine, special.start, "start")

    @classmethod
    def from_texts(cls, text: str, special: str) -> Self:
        """Load from the texts of a `tokenizer.json` and a `special_tokens.json`.

        Raises:
            TokenizerError: if one of them is invalid.
        """
        try:
            return cls(tokenizers.Tokenizer.from_str(text), SpecialTokens(**json.loads(special)))
        except TokenizerError:
            raise
        except Exception as error:  # the library raises bare Exception for any invalid text
            raise TokenizerError(
                f"the tokenizer cannot be read: {one_line(error)}", _EXPECTED, "check the file"
            ) from error

    def with_target(self, target: Tokenizer) -> Self:
        """Return this tokenizer with another one for generated text."""
        return type(self)(self._engine, self.special, target)

    def _write(self, path: Path) -> None:
        write_whole(path, self.to_json())
        write_whole(roles_file(path), self._special_json())

    def _special_json(self) -> str:
        return json.dumps(asdict(self.special), ensure_ascii=False, sort_keys=True, indent=2)

    @property
    def digest(self) -> str:
        """The sha256 of the rules and the special tokens, without the chat template, which changes no ids."""
        facts = {key: value for key, value in asdict(self.special).items() if key != "chat_template"}
        canonical = super().digest + json.dumps(facts, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def sentinel_ids(self) -> list[int]:
        """Ids of T5's sentinels `<extra_id_0>`, `<extra_id_1>`, ..., or of Prelude's; there may be none."""
        numbers = range(len(self._added))
        found = [
            [self._added[form.format(n)] for n in numbers if form.format(n) in self._added]
            for form in ("<extra_id_{}>", "<extra_{}>")
        ]
        return max(found, key=len)

    @property
    def start_id(self) -> int:
        """The id from which the decoder of an encoder-decoder starts."""
        return self.bos_id if self.start_token_id is None else self.start_token_id

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer adds before and after a text; there may be none."""
        return self._frame

    @property
    def has_chatml(self) -> bool:
        """Whether turns are framed as in ChatML: its marks are tokens, and its end mark ends a text."""
        own = any(f"<{role}>" in self._added for role in ("user", "assistant"))
        return not own and self._added.get(_CHATML[1]) == self.eos_id and _CHATML[0] in self._added

    def turn_frame(self, role: str) -> tuple[list[int], list[int]]:
        """Return the ids before and after a turn of a dialogue.

        They are those of `<user>`, of ChatML if that has the model's end token, or of the text `user: `.
        """
        ends = [self.eos_id] if role == "assistant" else []
        if (own := f"<{role}>") in self._added and own in SPECIAL_TOKENS:
            return [self._added[own]], ends
        if self.has_chatml:
            begin, end = (self._added[token] for token in _CHATML)
            return [begin, *self.encode(f"{role}\n").tolist()], [end, *self.encode("\n").tolist()]
        return self.encode(f"{role}: ").tolist(), ends or self.encode("\n").tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Encode many texts at once, on all cores.

        Raises:
            TokenizerError: if a text contains a lone surrogate.
        """
        for number, text in enumerate(texts):
            check_text(text, number)
        encodings = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def encode_with_offsets(self, text: str) -> tuple[TokenIds, TokenIds, TokenIds]:
        """Encode one text; return ids, and the start and end of each token's span, from the library."""
        check_text(text)
        encoding = self._engine.encode(text, add_special_tokens=False)
        spans = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        return np.array(encoding.ids, dtype=np.int32), spans[:, 0], spans[:, 1]

    def decode(self, ids: Any, *, keep_special: bool = False) -> str:
        """Decode ids to text by the rules of the library."""
        return str(self._engine.decode(self._checked(ids), skip_special_tokens=not keep_special))

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text that `ids` append, with a space that would be dropped at the beginning of text."""
        whole, first = self.decode([*before, *ids]), self.decode(before)
        return whole.removeprefix(first) if whole.startswith(first) else self.decode(ids)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickle as JSON."""
        target = self.target if self.has_own_target else None
        return _unpickled, (self._engine.to_str(), self._special_json(), target)


def _unpickled(text: str, special: str, target: Tokenizer | None) -> ForeignTokenizer:
    tokenizer = ForeignTokenizer.from_texts(text, special)
    return tokenizer if target is None else tokenizer.with_target(target)


def _id(engine: tokenizers.Tokenizer, token: str, role: str) -> int:
    found = engine.token_to_id(token)
    if found is None:
        raise TokenizerError(
            f"the {role} token {token!r} is not in the vocabulary",
            "special tokens that tokenizer.json has",
            "take tokenizer.json and tokenizer_config.json from the same model",
        )
    return int(found)


def _stand_in(role: str, named: Mapping[str, int]) -> int | None:
    for each in (role, *_INSTEAD.get(role, ())):
        if each in named:
            return named[each]
    if role == "eos":
        raise TokenizerError(
            "the tokenizer has no token that ends a text",
            "eos_token or sep_token in tokenizer_config.json or special_tokens_map.json",
            "add it there",
        )
    return None


def _frame(engine: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that the post-processor adds before and after a text."""
    encoding = engine.encode("a", add_special_tokens=True)
    plain = [place for place, is_added in enumerate(encoding.special_tokens_mask) if not is_added]
    if not plain:
        return [], []
    ids = [int(token) for token in encoding.ids]
    return ids[: plain[0]], ids[plain[-1] + 1 :]


def _plain(name: str) -> bytes:
    return name.encode("utf-8", "ignore")


@dataclass(frozen=True)
class _Marks:
    """How a vocabulary writes its pieces: bytes as characters, a prefix of continuing pieces, or spaces."""

    is_bytes: bool
    is_exact: bool
    continues: str | None

    @classmethod
    def of(cls, rules: Mapping[str, Any]) -> "_Marks":
        model = rules["model"]
        steps = [*_steps(rules["pre_tokenizer"]), *_steps(rules["decoder"])]
        is_bytes = any(step["type"] == "ByteLevel" for step in steps)
        changes = rules["normalizer"] is not None or any(step.get("add_prefix_space") for step in steps[:-1])
        prefix = model.get("continuing_subword_prefix") if model["type"] == "WordPiece" else None
        return cls(is_bytes, is_bytes and not changes, prefix)

    def text(self, name: str) -> bytes:
        """Return the bytes of text that a piece represents."""
        if self.is_bytes and all(letter in BYTE_OF_CHARACTER for letter in name):
            return bytes(BYTE_OF_CHARACTER[letter] for letter in name)
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes([int(name[3:5], 16)])
        return _plain(name.removeprefix(self.continues or "").replace(_SPACE, " "))

    def begins_word(self, name: str, piece: bytes) -> bool:
        """Return whether a piece begins a word."""
        if self.continues:
            return not name.startswith(self.continues)
        return bool(piece) and (piece.startswith(b" ") or starts_word(piece, alone=True))


def _steps(node: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a pre-tokenizer or decoder as a flat list."""
    if node is None:
        return []
    inner = node.get("pretokenizers") or node.get("decoders")
    return [step for part in inner for step in _steps(part)] if inner else [dict(node)]
