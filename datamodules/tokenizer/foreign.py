"""Tokenizers of other libraries' models, read from their own `tokenizer.json`: the same ids as there."""

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
#: Roles that another token can stand in for: BERT begins a text with [CLS], GPT-2 with the end of another.
_INSTEAD = {"bos": ("cls", "eos"), "eos": ("sep",), "sep": ("eos",), "pad": ("eos",), "cls": ("bos",)}
_CHATML = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """What a `tokenizer.json` does not say of its vocabulary.

    Args:
        roles: the token of each role (pad, bos, eos, unk, mask, sep, cls) that the vocabulary has.
        start: the token that a decoder beside an encoder starts from; None: bos.
        n_rows: rows of the embedding, if there are more than tokens.
        chat_template: the model's own form of dialogues, kept for export; nothing here runs it.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    start: str | None = None
    n_rows: int = 0
    chat_template: str | None = None


class ForeignTokenizer(Tokenizer):
    """A tokenizer that this project has not trained.

    It gives the ids that the `tokenizers` library gives; a text that spells a special token is split as
    any other, as with `split_special_tokens=True` there. It may lose spaces, case or accents, where its rules
    say so.
    Padding and truncation that the file asks for are left out: the tasks see to both.
    """

    def __init__(
        self, engine: tokenizers.Tokenizer, special: SpecialTokens, target: Tokenizer | None = None
    ) -> None:
        """Wrap an engine.

        Raises:
            TokenizerError: it has no token that ends a text, or a role names a token that it has not.
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
            TokenizerError: one of them is none.
        """
        try:
            return cls(tokenizers.Tokenizer.from_str(text), SpecialTokens(**json.loads(special)))
        except TokenizerError:
            raise
        except Exception as error:  # the library raises bare Exception for whatever is wrong in the text
            raise TokenizerError(
                f"the tokenizer cannot be read: {one_line(error)}", _EXPECTED, "check the file"
            ) from error

    def with_target(self, target: Tokenizer) -> Self:
        """The same tokenizer for what is read, and another one for what is written."""
        return type(self)(self._engine, self.special, target)

    def _write(self, path: Path) -> None:
        write_whole(path, self.to_json())
        write_whole(roles_file(path), self._special_json())

    def _special_json(self) -> str:
        return json.dumps(asdict(self.special), ensure_ascii=False, sort_keys=True, indent=2)

    @property
    def digest(self) -> str:
        """Sha256 of the rules and the special tokens; the form of dialogues changes no id."""
        facts = {key: value for key, value in asdict(self.special).items() if key != "chat_template"}
        canonical = super().digest + json.dumps(facts, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def sentinel_ids(self) -> list[int]:
        """Ids of T5's `<extra_id_0>`, `<extra_id_1>`, ..., or of ours; there may be none."""
        numbers = range(len(self._added))
        found = [
            [self._added[form.format(n)] for n in numbers if form.format(n) in self._added]
            for form in ("<extra_id_{}>", "<extra_{}>")
        ]
        return max(found, key=len)

    @property
    def start_id(self) -> int:
        """What the decoder of an encoder-decoder starts from."""
        return self.bos_id if self.start_token_id is None else self.start_token_id

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer itself puts before and after a text; there may be none."""
        return self._frame

    def turn_frame(self, role: str) -> tuple[list[int], list[int]]:
        """The ids before and after what one side says.

        They are those of `<user>`, of ChatML where the model's texts end so, or of the words `user: `.
        """
        ends = [self.eos_id] if role == "assistant" else []
        if (own := f"<{role}>") in self._added and own in SPECIAL_TOKENS:
            return [self._added[own]], ends
        if all(token in self._added for token in _CHATML) and self._added[_CHATML[1]] == self.eos_id:
            begin, end = (self._added[token] for token in _CHATML)
            return [begin, *self.encode(f"{role}\n").tolist()], [end, *self.encode("\n").tolist()]
        return self.encode(f"{role}: ").tolist(), ends or self.encode("\n").tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Encode many texts at once, on all cores.

        Raises:
            TokenizerError: a text holds a lone surrogate.
        """
        for number, text in enumerate(texts):
            check_text(text, number)
        encodings = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def encode_with_offsets(self, text: str) -> tuple[TokenIds, TokenIds, TokenIds]:
        """Encode one text, and give each token's characters [start, end) in it, as the library tells them."""
        check_text(text)
        encoding = self._engine.encode(text, add_special_tokens=False)
        spans = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
        return np.array(encoding.ids, dtype=np.int32), spans[:, 0], spans[:, 1]

    def decode(self, ids: Any, *, keep_special: bool = False) -> str:
        """Turn ids back into text, by the library's own rules."""
        return str(self._engine.decode(self._checked(ids), skip_special_tokens=not keep_special))

    def decode_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The text that ids add; rules that drop the first space of a text keep it here."""
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
    """What the post-processor puts around a text."""
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
    """How a vocabulary writes its pieces: bytes as characters, a mark of what continues a word, or spaces."""

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
        """The bytes of text that a piece stands for."""
        if self.is_bytes and all(letter in BYTE_OF_CHARACTER for letter in name):
            return bytes(BYTE_OF_CHARACTER[letter] for letter in name)
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes([int(name[3:5], 16)])
        return _plain(name.removeprefix(self.continues or "").replace(_SPACE, " "))

    def begins_word(self, name: str, piece: bytes) -> bool:
        """Whether a word begins with the piece."""
        if self.continues:
            return not name.startswith(self.continues)
        return bool(piece) and (piece.startswith(b" ") or starts_word(piece, alone=True))


def _steps(node: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer or decoder, one after another."""
    if node is None:
        return []
    inner = node.get("pretokenizers") or node.get("decoders")
    return [step for part in inner for step in _steps(part)] if inner else [dict(node)]
