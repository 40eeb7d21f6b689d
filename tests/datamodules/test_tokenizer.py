"""Tokenizers: nothing is lost, the same text gives the same tokenizer, special ids are fixed."""

import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.errors import TokenizerError
from datamodules.tokenizer import (
    N_SPECIAL_TOKENS,
    SPECIAL_TOKENS,
    ByteLevelBPE,
    Bytes,
    Tokenizer,
    TokenizerFile,
    Unigram,
    WordPiece,
    pretokens,
)

ROOT = Path(__file__).parents[2]
TEXTS = [
    "The little fox went to the river. The river was cold, and the fox was little.\n",
    "It's the fox's lantern; they've lost the lantern in 1984, the fox and the owl.\n",
    "Der kleine Fuchs ging zum Fluss, und der Fluss war kalt. Die Eule sieht den Fuchs.\n",
    "小狐狸去了河边，河水很冷。猫头鹰看见了小狐狸，小狐狸很冷。\n",
]
SYLLABLES = ["ka", "lo", "mi", "ran", "tes", "ul", "wo", "shi", "fen", "dar"]
RANDOM = random.Random(0)
TEXTS += [
    " ".join("".join(RANDOM.choices(SYLLABLES, k=RANDOM.randint(1, 4))) for _ in range(12)) + ".\n"
    for _ in range(200)
]
HARD = [
    "",
    " ",
    "\x00",
    "\x00\x01\x1f\x7f\x85\u2028",
    "<pad><bos><unk> <extra_0> <user>",
    "## ##a a##b ### ＃＃ ＃＃a",
    "▁ ▁the Ġthe ĊĠ",
    "\u0301 e\u0301 \u200d\ufe0f",
    "👩‍👩‍👧‍👦 🇩🇪 🏳️‍🌈",
    "小狐狸去了河边，河水很冷。",
    "\r\n\r \t\n  \n x  ",
    "\ufeffmark",
    "12345 ١٢٣ Ⅷ",
    "\U0010ffff\ue000\ufffd",
    "a" * 1000,
    " " * 1000 + "x",
    "😀" * 300,
]
KINDS = {
    "bpe": ByteLevelBPE(400),
    "wordpiece": WordPiece(650),
    "unigram": Unigram(340),
    "bytes": Bytes(),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param].train(TEXTS)


@pytest.mark.parametrize("text", HARD)
def test_hard_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.dtype == np.int32
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@settings(max_examples=200)
@given(text=st.text(st.characters(codec="utf-8"), max_size=80))
def test_any_unicode_text_comes_back_exactly_from_every_kind(text: str) -> None:
    for tokenizer in trained():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())
        assert not set(ids.tolist()) & set(tokenizer.special_ids)


def trained(cache: list[Tokenizer] = []) -> list[Tokenizer]:  # noqa: B006  (trained once for all examples)
    if not cache:
        cache += [kind.train(TEXTS) for kind in KINDS.values()]
    return cache


def test_special_tokens_and_bytes_have_the_same_ids_in_every_kind(tokenizer: Tokenizer) -> None:
    assert SPECIAL_TOKENS[:10] == (
        *("<pad>", "<bos>", "<eos>", "<unk>", "<mask>", "<sep>", "<cls>"),
        *("<user>", "<assistant>", "<system>"),
    )
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert (tokenizer.mask_id, tokenizer.sep_id, tokenizer.cls_id) == (4, 5, 6)
    assert [tokenizer.turn_frame(role)[0] for role in ("user", "assistant", "system")] == [[7], [8], [9]]
    assert tokenizer.sentinel_ids == list(range(10, 42))
    assert tokenizer.special_ids == list(range(42))
    for byte in range(256):
        assert tokenizer._pieces[N_SPECIAL_TOKENS + byte] == bytes([byte])
    assert not tokenizer.token_bytes[: len(SPECIAL_TOKENS)].any()


@pytest.mark.parametrize("size", [(ByteLevelBPE, 400), (WordPiece, 650), (Unigram, 340)])
def test_the_vocabulary_has_exactly_the_size_asked_for(size: tuple[Any, int]) -> None:
    kind, vocab_size = size
    assert kind(vocab_size).train(TEXTS).vocab_size == vocab_size


def test_what_is_learned_makes_text_shorter(tokenizer: Tokenizer) -> None:
    n_bytes = len(TEXTS[-1].encode())
    assert len(tokenizer.encode(TEXTS[-1])) <= (n_bytes if tokenizer.vocab_size == 298 else 0.75 * n_bytes)


def test_special_tokens_are_left_out_of_text_unless_kept(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.bos_id, *tokenizer.encode("fox"), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "fox"
    assert tokenizer.decode(ids, keep_special=True) == "<bos>fox<eos>"


def test_half_a_character_is_decoded_as_the_replacement_character() -> None:
    tokenizer = Bytes().train([])
    assert tokenizer.decode(tokenizer.encode("狐")[:2]) == "\ufffd"


def test_pieces_are_shown_readably() -> None:
    tokenizer = Bytes().train([])
    assert tokenizer.decode_tokens([1, *tokenizer.encode("a \n\t狐")]) == [
        *("<bos>", "a", "␣", "⏎", "\\t"),
        *("\\xe7", "\\x8b", "\\x90"),
    ]


def test_words_start_at_spaces_at_marks_and_at_each_chinese_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.word_starts.shape == (tokenizer.vocab_size,)
    assert not tokenizer.word_starts[: len(SPECIAL_TOKENS)].any()
    words = words_of(tokenizer, "the fox,\n河水")
    assert words == ["the", " fox", ",", "\n", "河", "水"]


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    words: list[bytes] = []
    for token in tokenizer.encode(text):
        if not words or tokenizer.word_starts[token]:
            words.append(b"")
        words[-1] += tokenizer._pieces[token]
    return [word.decode() for word in words]


def test_tokens_that_differ_in_case_and_spaces_alone_are_folded(tokenizer: Tokenizer) -> None:
    numbers: dict[str, set[int]] = {}
    for token in range(tokenizer.vocab_size):
        text = tokenizer.decode([token], keep_special=True).strip().casefold()
        if "\ufffd" not in text:
            numbers.setdefault(text, set()).add(int(tokenizer.folded_ids[token]))
    assert all(len(same) == 1 for same in numbers.values())
    assert numbers["?"] == {0}
    assert numbers["t"] != {0}
    words = [same for text, same in numbers.items() if any(map(str.isalnum, text))]
    assert len(set().union(*words)) == len(words)


def test_no_token_joins_chinese_characters_so_that_a_part_of_a_phrase_can_be_pointed_at() -> None:
    text = "他在石桥上，她在石桥上。"
    for kind in (ByteLevelBPE(340), WordPiece(600), Unigram(340)):
        _, starts, ends = kind.train([text] * 100 + TEXTS).encode_with_offsets(text)
        assert max(ends - starts) == 1


def test_training_again_gives_the_same_tokenizer_even_in_another_process(tokenizer: Tokenizer) -> None:
    kind = next(kind for kind in KINDS.values() if kind.train(TEXTS).digest == tokenizer.digest)
    code = f"""
from datamodules.tokenizer import *
from tests.datamodules.test_tokenizer import TEXTS
print({kind!r}.train(TEXTS).digest)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == tokenizer.digest


def test_saving_and_loading_keeps_ids_and_digest(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "tokenizer.json"
    tokenizer.save(path)
    loaded = Tokenizer.from_file(path)
    for text in HARD:
        np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))
    assert loaded.digest == tokenizer.digest
    assert loaded.to_json() == tokenizer.to_json()
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]
    assert TokenizerFile(str(path)).train([]).digest == tokenizer.digest
    assert TokenizerFile(str(path)).describe() == {"kind": "TokenizerFile", "digest": tokenizer.digest}


def test_what_is_written_can_have_a_vocabulary_of_its_own(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert tokenizer.target is tokenizer
    assert not tokenizer.has_own_target
    other = ByteLevelBPE(vocab_size=380).train(TEXTS)
    pair = tokenizer.with_target(other)
    pair.save(tmp_path / "tokenizer.json")
    for copy in (Tokenizer.from_file(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(pair))):
        assert copy.has_own_target
        assert copy.digest == pair.digest
        np.testing.assert_array_equal(copy.encode("the fox"), tokenizer.encode("the fox"))
        np.testing.assert_array_equal(copy.target.encode("the fox"), other.encode("the fox"))
    assert len({tokenizer.digest, pair.digest, other.digest, other.with_target(tokenizer).digest}) == 4


def test_a_pickled_tokenizer_still_reads_special_tokens_as_text(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy.encode("<pad> fox"), tokenizer.encode("<pad> fox"))


def test_the_saved_file_is_read_by_tokenizers_and_transformers_with_the_same_ids(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    plain = tokenizers.Tokenizer.from_file(str(path))
    hugging = PreTrainedTokenizerFast(tokenizer_file=str(path))
    for text in [*TEXTS[:4], *(text for text in HARD if "<" not in text)]:
        ids = tokenizer.encode(text).tolist()
        assert plain.encode(text).ids == ids
        assert hugging(text)["input_ids"] == ids
        assert plain.decode(ids) == text
        assert hugging.decode(ids, clean_up_tokenization_spaces=False) == text
    assert hugging.convert_tokens_to_ids(["<pad>", "<extra_31>"]) == [0, 41]


LONG = st.lists(
    st.sampled_from([*HARD, *TEXTS, "word ", " ", "\n", "河", "a", "é", "１"]), min_size=1, max_size=60
)


@settings(max_examples=60)
@given(parts=LONG, max_characters=st.integers(200, 500))
def test_slices_join_to_the_text_and_are_cut_where_the_pattern_cuts(
    parts: list[str], max_characters: int
) -> None:
    text = "".join(parts)
    pieces = list(pretokens.slices(text, max_characters))
    assert "".join(pieces) == text
    assert all(len(piece) <= max_characters for piece in pieces)
    whole = [piece for piece, _ in pretokens.pre_tokenizer().pre_tokenize_str(text)]
    assert [
        word for piece in pieces for word, _ in pretokens.pre_tokenizer().pre_tokenize_str(piece)
    ] == whole


@pytest.mark.slow
def test_a_long_document_is_encoded_as_it_is_in_one_piece(tokenizer: Tokenizer) -> None:
    for text in ("".join(TEXTS) * 4, "河水很冷" * 8_500, "x" * 34_000, " " * 34_000, "\n" * 40_000 + "a"):
        ids = tokenizer.encode(text)
        assert ids.tolist() == tokenizer._engine.encode(text).ids
        assert tokenizer.decode(ids) == text


def test_a_batch_is_encoded_as_its_texts_are(tokenizer: Tokenizer) -> None:
    texts = [*HARD, "".join(TEXTS) * 4, ""]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))
    assert tokenizer.encode_batch([]) == []


def test_wordpiece_has_no_unknown_token_for_hashes_or_endless_words() -> None:
    tokenizer = WordPiece(650).train([*TEXTS, "##a ##a ##a a##a a##a"])
    for text in ("##a", "a##a", "####", "x" * 5000, "河" * 5000):
        ids = tokenizer.encode(text)
        assert tokenizer.unk_id not in ids
        assert tokenizer.decode(ids) == text


def test_describe_gives_plain_values_that_differ_where_results_would() -> None:
    described = [ByteLevelBPE(400), ByteLevelBPE(500), WordPiece(600), Unigram(400), Bytes()]
    texts = {json.dumps(trainer.describe(), sort_keys=True) for trainer in described}
    assert len(texts) == len(described)


def error_of(action: Any) -> str:
    with pytest.raises(TokenizerError) as caught:
        action()
    assert str(caught.value).count("\n") == 1
    return str(caught.value)


def test_a_vocabulary_without_room_for_bytes_is_refused_before_training() -> None:
    assert error_of(lambda: ByteLevelBPE(100)) == (
        "vocab_size 100 has no room for the special tokens and all bytes; expected at least 298\nhint: "
        "set tokenizer.vocab_size=298 or more, or choose tokenizer=bytes"
    )
    assert "at least 298" in error_of(lambda: Unigram(297))
    assert "at least 554" in error_of(lambda: WordPiece(553))


@pytest.mark.parametrize("kind", [ByteLevelBPE, WordPiece, Unigram])
@pytest.mark.parametrize("texts", [TEXTS, ["a"], ["狐" * 50]])
def test_a_text_that_cannot_give_so_large_a_vocabulary_gives_what_it_can(kind: Any, texts: list[str]) -> None:
    tokenizer = kind(9000).train(texts)
    assert 298 <= tokenizer.vocab_size < 9000
    assert kind(tokenizer.vocab_size).train(texts).vocab_size == tokenizer.vocab_size
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


def test_no_text_is_refused() -> None:
    expected = (
        "there is no text to train a tokenizer on; expected at least one row with text\nhint: "
        "check the corpus and its column"
    )
    assert error_of(lambda: ByteLevelBPE(400).train([])) == expected
    assert error_of(lambda: Unigram(400).train(["", ""])) == expected


def test_a_lone_surrogate_is_refused_where_it_stands(tokenizer: Tokenizer) -> None:
    expected = (
        "text 1 has the lone surrogate U+D83D at character 2; expected text that UTF-8 can represent\nhint: "
        "decode the source again, or replace lone surrogates first"
    )
    assert error_of(lambda: tokenizer.encode_batch(["fine", "ab\ud83d"])) == expected
    assert error_of(lambda: ByteLevelBPE(400).train(["fine", "ab\ud83d"])) == expected


def test_what_is_no_text_is_refused(tokenizer: Tokenizer) -> None:
    assert error_of(lambda: tokenizer.encode_batch(["a", None])) == (  # type: ignore[list-item]
        "text 1 is NoneType, not a string; expected text\nhint: check the corpus and its column"
    )


def test_an_id_outside_of_the_vocabulary_is_refused(tokenizer: Tokenizer) -> None:
    last = tokenizer.vocab_size - 1
    assert error_of(lambda: tokenizer.decode([last + 1])) == (
        f"token id {last + 1} is not in the vocabulary; expected ids from 0 to {last}\nhint: "
        "use the tokenizer that the ids were made with"
    )
    assert "token id -1 " in error_of(lambda: tokenizer.decode([-1]))


def test_files_that_are_no_tokenizer_of_ours_are_refused(tmp_path: Path) -> None:
    import tokenizers
    from tokenizers import models

    ours = "expected a tokenizer.json written by Prelude (by the stage tokenizer, or in a bundle)"
    path = tmp_path / "tokenizer.json"
    assert error_of(lambda: Tokenizer.from_file(path)) == (
        f"tokenizer file {path}: No such file or directory; {ours}\nhint: check the path"
    )
    path.write_text('{"version": ')
    broken = f"tokenizer file {path}: the tokenizer cannot be read: "
    assert error_of(lambda: Tokenizer.from_file(path)).startswith(broken)
    path.write_bytes(b"\xff\xfe")
    assert (
        error_of(lambda: Tokenizer.from_file(path))
        == f"tokenizer file {path}: not UTF-8 text; {ours}\nhint: check the path"
    )
    tokenizers.Tokenizer(models.BPE({"a": 0}, [])).save(str(path))
    assert error_of(lambda: Tokenizer.from_file(path)) == (
        f"tokenizer file {path}: the tokenizer has different special tokens or rules; {ours}\nhint: "
        "train one with `make tokenizer`"
    )


def test_a_folder_that_cannot_be_written_is_told(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "tokenizer.json"
    assert error_of(lambda: tokenizer.save(path)) == (
        f"tokenizer file {path} cannot be written: {error_text(path.parent)}; "
        "expected a folder that can be written, with free space\n"
        "hint: choose another folder, or free some space"
    )


def error_text(folder: Path) -> str:
    with pytest.raises(OSError, match=r".") as caught:
        folder.mkdir(parents=True)
    return str(caught.value.strerror)
