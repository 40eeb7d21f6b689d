"""What a user can give wrong: each answered in one line, with nothing left half written."""

import contextlib
import json
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.runs.checkpoint_files import AtomicCheckpointIO

WORDS = ("debug=quick", "tracking=off", "tokenizer=bytes", "packing=concat", "data=files")
GOOD = "".join(f"Line {i} of a long poem about nothing much, {i * i} times.\n" for i in range(400))


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run called `first` has been trained."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "my.txt").write_text(GOOD)
    with contextlib.chdir(folder):
        assert main(["pretrain", *WORDS, "data.train=my.txt", "name=first"]) == 0
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to work in."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def pretrain(run, tmp_path: Path):
    """Pretrains on my.txt with further words."""
    (tmp_path / "my.txt").write_text(GOOD)
    return lambda *words: run("pretrain", *WORDS, "data.train=my.txt", *words)


@contextlib.contextmanager
def disk_of(n_bytes: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def statuses(folder: Path) -> dict[str, str]:
    return {
        file.parent.name: json.loads(file.read_text())["status"] for file in folder.glob("runs/*/run.json")
    }


def drafts(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if "draft" in file.name or file.suffix == ".tmp"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("latin.txt", b"ok\nGr\xfc\xdfe\n", "latin.txt, line 2, byte 3 of the line: 0xfc is not UTF-8"),
        ("rows.jsonl", b'{"body":"good"}\n' * 9, "no column 'text'; expected one of the columns present"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_it(
    name: str, content: bytes, says: str, run, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    refused = run("pretrain", *WORDS, f"data.train={name}", "name=mine")
    assert refused.code == 2
    assert says in refused.error
    assert statuses(tmp_path) in ({}, {"mine": "FAILED"})  # no run, or one that says how it ended
    assert not (tmp_path / ".cache").exists()


def test_a_corpus_of_the_hub_without_a_network_says_what_to_do_instead(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRELUDE_DATA", raising=False)
    refused = run("pretrain", "debug=quick", "tracking=off", "data=wikitext")
    assert refused.code == 2
    assert "the data set Salesforce/wikitext cannot be read: Couldn't reach" in refused.error
    assert "set PRELUDE_DATA to a folder of copies" in refused.error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["size.max_seq_len=1"], "max_seq_len is 1; expected 4 to 65,534 tokens"),
        (["size.max_seq_len=100000"], "max_seq_len is 100000; expected 4 to 65,534 tokens"),
        (["sampling.top_p=7.5"], "SamplingOptions: top_p is 7.5; expected more than 0 and at most 1"),
        (["tokenizer=bpe", "tokenizer.vocab_size=10"], "vocab_size 10 has no room"),
        (["name=../x"], "name='../x' is not a valid name of a run"),
        (["name=.."], "name='..' is not a valid name of a run"),
        (["name=" + "x" * 300], "is not a valid name of a run; expected at most 60"),
        (["runs_dir=my.txt"], "cannot create a run folder in my.txt"),
        (["resume=true"], "no unfinished pretrain run with this configuration in runs"),
        (["resume=nowhere"], "no unfinished pretrain run called 'nowhere' in runs"),
    ],
)
def test_an_impossible_option_is_refused_before_a_run_begins(
    words: list[str], says: str, pretrain, tmp_path: Path
) -> None:
    refused = pretrain(*words)
    assert refused.code == 2
    assert says in refused.error
    assert not (tmp_path / "runs").is_dir() or not list((tmp_path / "runs").iterdir())


def test_a_wrong_mirror_folder_is_named(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELUDE_DATA", "/nowhere/at/all")
    for corpus in ("fairytale", "wikitext"):
        refused = run("pretrain", "debug=quick", "tracking=off", f"data={corpus}")
        assert refused.code == 2
        assert "PRELUDE_DATA=/nowhere/at/all is not a folder" in refused.error


def test_a_cache_folder_that_cannot_be_written_is_named(pretrain, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = pretrain("cache_dir=file", "name=mine")
    assert refused.code == 2
    assert "cannot be written" in refused.error
    assert statuses(tmp_path) in ({}, {"mine": "FAILED"})  # no run, or one that says how it ended


def test_a_disk_that_fills_while_tokens_are_cached_leaves_no_cache(pretrain, tmp_path: Path) -> None:
    with disk_of(40_000):
        refused = pretrain("name=mine")
    assert refused.code == 2
    assert "the token cache cannot be written" in refused.error
    assert statuses(tmp_path) in ({}, {"mine": "FAILED"})  # no run, or one that says how it ended
    assert not list(tmp_path.glob(".cache/rows/*/*"))


@pytest.mark.slow
def test_a_disk_that_fills_in_training_leaves_no_half_checkpoint(
    pretrain, trained: Path, tmp_path: Path
) -> None:
    with disk_of(100_000):
        refused = pretrain("name=mine")
    assert refused.code == 2
    assert "cannot write runs/mine/checkpoints/" in refused.error
    assert statuses(tmp_path)["mine"] == "FAILED"
    assert not list(tmp_path.glob("runs/mine/checkpoints/*.ckpt"))
    assert not drafts(tmp_path)


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_beginning_is_an_error_too(pretrain, tmp_path: Path) -> None:
    with disk_of(600):
        refused = pretrain("name=mine")
    assert refused.code == 2
    assert refused.error.splitlines()[0].endswith("File too large")
    assert "\nhint: free some space" in refused.error


@pytest.mark.slow
def test_damaged_caches_are_named_and_not_used(pretrain, trained: Path) -> None:
    for file in trained.glob(".cache/rows/*/data.arrow"):
        os.truncate(file, file.stat().st_size - 100)
    refused = pretrain()
    assert refused.code == 2
    assert "the token cache .cache/rows/" in refused.error
    assert refused.error.endswith("delete the folder, and run the command again")
    for file in trained.glob(".cache/tokenizers/*.json"):
        file.write_text("{")
    refused = pretrain()
    assert refused.code == 2
    assert "in the cache is damaged" in refused.error
    assert refused.error.endswith("delete the file and run the command again")


@pytest.mark.slow
def test_a_run_from_a_bundle_records_the_model_of_the_bundle(run, trained: Path) -> None:
    words = ("pretrain", "data=files", "data.train=my.txt", "tracking=off", "init_from=first", "name=second")
    assert run(*words, "trainer.max_steps=1", "trainer.val_rows=4").code == 0
    from omegaconf import OmegaConf

    first, second = (OmegaConf.load(trained / "runs" / name / "config.yaml") for name in ("first", "second"))
    for key in ("model", "size", "tokenizer"):
        assert first[key] == second[key]
    assert second.choices.tokenizer == "bytes"


def test_an_unfinished_bundle_is_not_started_from(run, trained: Path) -> None:
    (trained / "runs/first/bundles/best/DONE").unlink()
    words = ("data=files", "data.train=my.txt", "tracking=off", "init_from=first")
    says = {"first": "best is not a finished bundle", "latest": "no finished pretrain bundle under runs"}
    for name, problem in says.items():
        refused = run("pretrain", *words, f"init_from={name}")
        assert refused.code == 2
        assert problem in refused.error
    assert statuses(trained) == {"first": "FINISHED"}


def test_a_folder_that_is_no_bundle_is_not_called_an_unfinished_one(run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "no bundle 'folder'" in run("generate", "bundle=folder").error


@pytest.mark.slow
def test_a_finished_run_is_not_resumed_but_may_be_trained_longer(pretrain, trained: Path) -> None:
    refused = pretrain("resume=first")
    assert refused.code == 2
    assert "runs/first is finished; expected an unfinished run\nhint: use its bundle" in refused.error
    longer = pretrain("resume=first", "trainer.max_steps=24")
    assert longer.code == 0, longer.err
    assert statuses(trained) == {"first": "FINISHED"}
    assert "is finished" in pretrain("resume=first", "trainer.max_steps=24").error


@pytest.mark.parametrize(
    ("word", "key"),
    [("seed=2", "seed"), ("init_from=first", "init_from")],
)
def test_a_run_is_not_resumed_with_another_model_or_other_data(
    word: str, key: str, pretrain, run, trained: Path
) -> None:
    if word == "init_from=first":
        refused = run(
            "pretrain", "debug=quick", "tracking=off", "data=files", "data.train=my.txt", word, "resume=first"
        )
    else:
        refused = pretrain("resume=first", word)
    assert refused.code == 2
    assert f"runs/first was started with {key}=" in refused.error
    assert statuses(trained) == {"first": "FINISHED"}


def test_a_damaged_checkpoint_is_not_resumed_from(pretrain, trained: Path) -> None:
    checkpoint = trained / "runs/first/checkpoints/last.ckpt"
    AtomicCheckpointIO().load_checkpoint(checkpoint)
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    checkpoint.write_bytes(data)
    refused = pretrain("resume=first", "trainer.max_steps=24")
    assert refused.code == 2
    assert "last.ckpt is damaged" in refused.error
    assert statuses(trained) == {"first": "FINISHED"}


def test_unreadable_runs_are_passed_over_and_said(run, trained: Path) -> None:
    contents = ['{"name": ', "[]", '{"name": "x", "surplus": 1}', "\udcff"]
    for number, content in enumerate(contents):
        (trained / f"runs/broken{number}").mkdir()
        file = trained / f"runs/broken{number}/run.json"
        file.write_bytes(content.encode(errors="surrogateescape"))
    written = run("generate", "bundle=latest", "prompts=['Line']", "sampling.max_new_tokens=4")
    assert written.code == 0, written.err
    for number in range(len(contents)):
        assert f"note: runs/broken{number}/run.json cannot be read" in written.err


@pytest.mark.slow
def test_a_prompt_without_a_gap_is_refused_by_a_bundle_that_fills_gaps(run, tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text(GOOD)
    words = (*WORDS, "task=masked_lm", "data.train=my.txt", "trainer.max_steps=1", "trainer.val_rows=2")
    assert run("pretrain", *words).code == 0
    refused = run("generate", "prompts=['no gap']")
    assert refused.code == 2
    assert "fills gaps, but ['no gap'] has none; expected a text with <mask> in it" in refused.error
