"""From the configuration to things: what is cached under which key, and what is refused early."""

import hashlib
import importlib
import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import prepare
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.model import build_model, check_values
from pipeline.config.plain import Config
from pipeline.errors import ConfigError, Stopped
from tests.waiting import LIMIT_S

GOOD = "".join(f"Line {i} of a long poem about nothing much, {i * i} times.\n" for i in range(200))

Keys = Callable[..., tuple[str, str]]


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "my.txt"
    file.write_text(GOOD)
    return file


@pytest.fixture
def configured(text_file: Path, tmp_path: Path) -> Callable[..., Config]:
    words = ["debug=quick", "data=files", f"data.train={text_file}", "tokenizer=bytes", "packing=concat"]
    return lambda *more: compose("pretrain", [*words, f"cache_dir={tmp_path / 'cache'}", *more])


@pytest.fixture
def keys(configured: Callable[..., Config], tmp_path: Path) -> Keys:
    """The keys of the training and the validation rows that a configuration gives."""

    def find(*words: str) -> tuple[str, str]:
        config = configured(*words)
        corpus, _ = prepare.load_corpus(config)
        tokenizer = prepare.build_tokenizer(config, corpus)
        limit = config.model.backbone.max_seq_len
        options, task = construct(config.trainer), construct(config.task)
        rows = prepare.build_rows(config, options, corpus, tokenizer, task, max_seq_len=limit)
        return rows[0].manifest["key"], rows[1].manifest["key"]

    return find


@pytest.mark.parametrize(
    "word",
    [
        "cleaning.lowercase=true",
        "tokenizer=bpe tokenizer.vocab_size=320",
        "packing=whole",
        "size.max_seq_len=32",
        "task=masked_lm",
        "data.validation_fraction=0.2",
    ],
)
def test_what_changes_the_tokens_changes_their_keys(word: str, keys: Keys) -> None:
    before, after = keys(), keys(*word.split())
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    "word",
    [
        "seed=2",
        "trainer.max_steps=5",
        "trainer.batch_size=2",
        "name=other",
        "optimizer=adamw",
        "size.d_model=16",
        "prompts=[a]",
    ],
)
def test_what_does_not_change_the_tokens_does_not_change_their_keys(word: str, keys: Keys) -> None:
    assert keys() == keys(word)


def test_fewer_validation_rows_have_a_key_of_their_own(keys: Keys) -> None:
    before, after = keys(), keys("trainer.val_rows=3")
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.slow
def test_other_text_under_the_same_name_has_another_key_and_the_same_text_under_another_has_not(
    keys: Keys, text_file: Path
) -> None:
    before = keys()
    text_file.write_text(GOOD.replace("poem", "song"))
    assert keys()[0] != before[0]
    other = text_file.with_name("copy.txt")
    other.write_text(GOOD)
    assert keys(f"data.train={other}") == before


def test_other_code_has_another_key(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys()
    monkeypatch.setattr(prepare, "code_version", lambda *packages: "of tomorrow")
    assert keys()[0] != before[0]


def test_the_version_of_code_is_that_of_every_file_of_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("some_package")
    before = prepare.code_version("some_package")
    assert prepare.code_version("some_package") == before
    (package / "part.py").write_text("x = 2\n")
    assert prepare.code_version("some_package") != before
    del sys.modules["some_package"]


def test_a_tokenizer_is_trained_once_for_the_same_text(
    configured: Callable[..., Config], tmp_path: Path
) -> None:
    config = configured("tokenizer=bpe", "tokenizer.vocab_size=320")
    corpus, _ = prepare.load_corpus(config)
    first = prepare.build_tokenizer(config, corpus)
    (file,) = (tmp_path / "cache" / "tokenizers").glob("*.json")
    written = file.stat().st_mtime_ns
    assert prepare.build_tokenizer(config, corpus).digest == first.digest
    assert file.stat().st_mtime_ns == written
    prepare.build_tokenizer(configured("tokenizer=bpe", "tokenizer.vocab_size=330"), corpus)
    assert len(list(file.parent.glob("*.json"))) == 2


def test_the_manifest_counts_tokens_and_bytes_of_the_text(
    configured: Callable[..., Config], text_file: Path
) -> None:
    config = configured("trainer.val_rows=3")
    corpus, _ = prepare.load_corpus(config)
    tokenizer = prepare.build_tokenizer(config, corpus)
    options, task = construct(config.trainer), construct(config.task)
    train, validation = prepare.build_rows(config, options, corpus, tokenizer, task, max_seq_len=64)
    assert len(validation) == config.trainer.val_rows
    counts = train.manifest["counts"]
    text = "".join(str(row["text"]) for row in corpus.train)
    assert counts["text_bytes"] == len(text.encode())
    assert counts["tokens"] == counts["text_bytes"] + 2  # one document: its bytes, its beginning and end
    assert json.dumps(train.manifest)


def test_the_model_has_the_same_first_weights_for_the_same_seed(
    configured: Callable[..., Config],
) -> None:
    config = configured()
    corpus, _ = prepare.load_corpus(config)
    tokenizer = prepare.build_tokenizer(config, corpus)

    def first_weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_model(config.model, tokenizer).backbone.embedding.weight

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(1), first_weights(2))


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("size.max_seq_len=3", "max_seq_len is 3; expected 4 to 65,534 tokens"),
        (
            "size.n_heads=3",
            "d_model 32 is not divisible by n_heads 3; expected heads of equal size\nhint: choose",
        ),
        ("sampling.temperature=-1.0", "SamplingOptions: temperature is -1.0; expected 0 or more"),
    ],
)
def test_an_impossible_value_is_known_before_data_is_read(
    word: str, says: str, configured: Callable[..., Config], text_file: Path
) -> None:
    text_file.unlink()
    with pytest.raises(ConfigError) as caught:
        check_values(configured(word))
    message = str(caught.value)
    assert says in message
    assert message.count("expected") == 1


def test_the_optimum_is_bits_of_all_texts_over_bytes_of_all_texts(tmp_path: Path) -> None:
    words = ["data.n_train_rows=20", "data.n_validation_rows=10", f"cache_dir={tmp_path}"]
    corpus, _ = prepare.load_corpus(compose("pretrain", words))
    rows = list(corpus.validation)
    bits = sum(row["bits"] for row in rows)
    assert prepare.optimum_bits_per_byte(corpus) == pytest.approx(
        bits / sum(len(row["text"].encode()) for row in rows)
    )


def test_a_corpus_that_does_not_know_its_entropy_has_no_optimum(
    configured: Callable[..., Config],
) -> None:
    corpus, _ = prepare.load_corpus(configured())
    assert prepare.optimum_bits_per_byte(corpus) is None


@pytest.mark.slow
def test_a_signal_is_answered_while_foreign_code_works() -> None:
    finished = threading.Event()

    def work() -> None:
        hashlib.pbkdf2_hmac("sha256", b"long", b"work", 3_000_000)
        finished.set()

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Stopped):
            prepare.interruptibly(work)
        assert not finished.is_set()
        assert finished.wait(LIMIT_S)  # it went on beside, and nobody had waited for it
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_an_error_in_foreign_code_is_raised_where_it_was_called() -> None:
    with pytest.raises(ZeroDivisionError):
        prepare.interruptibly(lambda: 1 / 0)
