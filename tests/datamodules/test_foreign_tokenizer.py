"""Imported tokenizers: the same ids as `transformers`, special ids of their own, and what they lack."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from datamodules.errors import TokenizerError
from datamodules.tokenizer import ForeignTokenizer, SpecialTokens, Tokenizer
from pipeline.tasks.masked_lm import MaskedLM

TEXTS = (
    "One sunny morning, a baker went home.",
    "  two spaces before,\n\na line between, and a tab\t.",
    "naïve café, Straße, Ελληνικά, русский, العربية, हिन्दी",
    "春天的早晨，她走到河边。「你好！」",
    "emoji 👩‍👩‍👧 🙂, numbers 1234567890, e = mc²",
    "",
    "   ",
)


def trained(engine: tokenizers.Tokenizer, trainer: trainers.Trainer) -> tokenizers.Tokenizer:
    engine.train_from_iterator(TEXTS * 3, trainer)
    return engine


def bert() -> tuple[tokenizers.Tokenizer, SpecialTokens]:
    engine = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer = normalizers.BertNormalizer(lowercase=True)
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    engine = trained(engine, trainers.WordPieceTrainer(vocab_size=300, special_tokens=names))
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    engine.enable_truncation(8)
    engine.enable_padding(length=8)
    roles = {role: f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    return engine, SpecialTokens(roles=roles)


def gpt2() -> tuple[tokenizers.Tokenizer, SpecialTokens]:
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    engine.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    return trained(engine, trainer), SpecialTokens(roles={"eos": "<|endoftext|>"})


def t5() -> tuple[tokenizers.Tokenizer, SpecialTokens]:
    engine = tokenizers.Tokenizer(models.Unigram())
    engine.normalizer = normalizers.NFKC()
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.decoder = decoders.Metaspace()
    names = ["<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=names, unk_token="<unk>", show_progress=False
    )
    engine = trained(engine, trainer)
    engine.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    roles = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    return engine, SpecialTokens(roles=roles, start="<pad>", n_rows=256)


KINDS: list[Callable[[], tuple[tokenizers.Tokenizer, SpecialTokens]]] = [bert, gpt2, t5]


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_are_those_of_transformers_and_of_its_copies(kind: Any, tmp_path: Path) -> None:
    engine, special = kind()
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=engine)
    ours = ForeignTokenizer(tokenizers.Tokenizer.from_str(engine.to_str()), special)
    ours.save(tmp_path / "tokenizer.json")
    for copy in (ours, Tokenizer.from_file(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(ours))):
        expected = [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        assert [ids.tolist() for ids in copy.encode_batch(TEXTS)] == expected
        assert copy.digest == ours.digest
        assert (copy.pad_id, copy.eos_id, copy.frame) == (ours.pad_id, ours.eos_id, ours.frame)
    name = next(iter(special.roles.values()))
    plain = theirs(f"a {name} b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ours.encode(f"a {name} b").tolist() == plain
    whole = theirs(TEXTS[0])["input_ids"]
    assert [*ours.frame[0], *ours.encode(TEXTS[0]), *ours.frame[1]] == whole
    for text, ids in zip(TEXTS, expected, strict=True):
        assert ours.decode(ids) == engine.decode(ids), text


def test_special_ids_are_those_of_the_model() -> None:
    encoder, decoder, pair = (ForeignTokenizer(*kind()) for kind in KINDS)
    assert (encoder.pad_id, encoder.bos_id, encoder.sep_id, encoder.eos_id, encoder.mask_id) == (
        0,
        2,
        3,
        3,
        4,
    )
    assert {decoder.bos_id, decoder.eos_id, decoder.sep_id, decoder.pad_id} == {0}
    assert (pair.start_id, pair.eos_id, pair.sentinel_ids, pair.frame) == (0, 1, [3, 4], ([], [1]))
    assert (decoder.frame, encoder.frame) == (([], []), ([2], [3]))
    assert (encoder.is_exact, decoder.is_exact, pair.is_exact) == (False, True, False)
    assert pair.vocab_size == 256
    assert {*range(pair._engine.get_vocab_size(), 256)} <= {*pair.special_ids}


def test_offsets_point_at_the_text_of_each_token() -> None:
    for kind in KINDS:
        tokenizer = ForeignTokenizer(*kind())
        text = "One sunny  morning, naïve"
        ids, starts, ends = tokenizer.encode_with_offsets(text)
        covered = {place for a, b in zip(starts, ends, strict=True) for place in range(a, b)}
        assert {place for place, letter in enumerate(text) if letter != " "} <= covered
        assert text[starts[-1] : ends[-1]].strip() == "naïve"[-len(text[starts[-1] : ends[-1]].strip()) :]
        sunny = next(i for i, end in enumerate(ends) if end > text.index(" sunny") + (kind is not gpt2))
        assert tokenizer.word_starts[ids[sunny]]
        assert tokenizer.token_bytes[ids].sum() == len(text.encode()) or not tokenizer.is_exact


def test_a_missing_role_says_which_task_cannot_use_the_tokenizer() -> None:
    with pytest.raises(TokenizerError, match=r"no mask token; .*masked_lm"):
        MaskedLM().collator(ForeignTokenizer(*gpt2()), seed=0)
    with pytest.raises(TokenizerError, match="no token that ends a text"):
        ForeignTokenizer(gpt2()[0], SpecialTokens())
    with pytest.raises(TokenizerError, match=r"'<s>' is not in the vocabulary"):
        ForeignTokenizer(gpt2()[0], SpecialTokens(roles={"eos": "<s>"}))


def test_turns_are_framed_as_the_vocabulary_allows() -> None:
    plain = ForeignTokenizer(*gpt2())
    assert plain.turn_frame("user") == (plain.encode("user: ").tolist(), plain.encode("\n").tolist())
    assert plain.turn_frame("assistant")[1] == [plain.eos_id]
    engine, _ = gpt2()
    engine.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    chatml = ForeignTokenizer(engine, SpecialTokens(roles={"eos": "<|im_end|>"}))
    before, after = chatml.turn_frame("assistant")
    assert chatml.decode(before, keep_special=True) == "<|im_start|>assistant\n"
    assert chatml.decode(after, keep_special=True) == "<|im_end|>\n"
    assert after[0] == chatml.eos_id


def test_a_damaged_file_of_special_tokens_is_refused(tmp_path: Path) -> None:
    ForeignTokenizer(*gpt2()).save(tmp_path / "tokenizer.json")
    for text in ("[]", "{", json.dumps({"rolls": {}})):
        (tmp_path / "special_tokens.json").write_text(text)
        with pytest.raises(TokenizerError, match=r"tokenizer file .* cannot be read"):
            Tokenizer.from_file(tmp_path / "tokenizer.json")
