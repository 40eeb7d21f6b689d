"""What stages say: paths as they are typed, texts that are not read as markup."""

from pathlib import Path

import pytest

from datamodules.corpus import Corpus
from datamodules.tokenizer import ByteLevelBPE
from pipeline import report
from pipeline.tasks.base import Sample


def test_a_path_inside_the_working_folder_is_told_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report.short(tmp_path / "runs" / "a") == "runs/a"
    assert report.short(Path("runs/a")) == "runs/a"
    assert report.short(Path("/elsewhere/a")) == "/elsewhere/a"


def test_results_go_to_standard_error_in_the_order_in_which_people_read_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report.summary(
        "mine: done",
        metrics={"val/bits_per_byte": 1.23456, "val/loss": 0.5, "unknown": 3.0},
        facts={"bundle": "runs/mine/bundles/best"},
        samples=[],
        next_commands={},
    )
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    loss, bits = (next(i for i, line in enumerate(lines) if mark in line) for mark in ("0.5000", "1.2346"))
    assert loss < bits
    assert "runs/mine/bundles/best" in captured.err
    assert "mine: done" in lines[0]
    assert "Samples" not in captured.err


def test_brackets_in_a_sample_are_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    samples = [
        Sample(input="[bold]", output="[/red] :smile: [link=x]", is_continuation=True),
        Sample(input="a [b]", output="c", target="[/d]"),
    ]
    report.summary("x", metrics={}, facts={"f": "[g]"}, samples=samples, next_commands={"make [h]": "i"})
    told = capsys.readouterr().err
    for text in ("[bold][/red] :smile: [link=x]", "a [b]", "[/d]", "[g]", "make [h]"):
        assert text in told


def test_a_command_to_copy_is_on_one_line_if_the_line_is_long_enough(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fits = 'make generate BUNDLE=smollm PROMPT="One sunny morning, at sea"'
    purpose = "generate text with this model, or fine-tune it for classify, qa, tag and translate"
    for n_more, is_whole in ((0, True), (60, False)):
        command = fits + "x" * n_more
        report.summary("x", metrics={}, facts={}, samples=[], next_commands={command: purpose, "make ui": ""})
        told = capsys.readouterr().err
        assert (command in told) is is_whole
        assert "make ui" in told


def test_samples_are_kept_as_a_text_with_the_truth_where_there_is_one() -> None:
    text = report.samples_markdown(
        [
            Sample(input="Once", output=" upon", is_continuation=True),
            Sample(input="Who?", output="Anna"),
            Sample(input="a ▁▁", output="a b", target="a c"),
        ]
    )
    assert "**Once** upon" in text
    assert "Input: Who?\n\nPrediction: Anna\n\n##" in text
    assert "Input: a ▁▁" in text
    assert "Target: a c" in text
    assert text.endswith("\n")


def test_a_sample_stands_beside_its_titles_in_any_script(capsys: pytest.CaptureFixture[str]) -> None:
    """A text without spaces is one word to a wrapper, which would put it on a line of its own."""
    samples = [Sample(input="这是一个晴朗的傍晚" * 20, output="安东", target="伊达")]
    report.summary("x", metrics={}, facts={}, samples=samples, next_commands={})
    told = capsys.readouterr().err
    assert "1  input       这是一个晴朗的傍晚" in told
    assert "   prediction  安东" in told
    assert "   target      伊达" in told


def test_what_is_said_goes_on_below_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    report.say("Run", f"runs/{'long-name-' * 8}, CPU, 1 of 2 cores")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"Run        runs/{'long-name-' * 8},")
    assert second.startswith(" " * 11)


def test_the_pace_of_a_training_is_told_in_time_and_tokens_per_second() -> None:
    assert report.describe_pace(163, 163 * 5300) == "2:43 with validations, 5,300 tokens per second"
    assert report.describe_pace(0, 0) == "0:00 with validations"


def test_what_was_decided_in_reading_and_rows_of_two_splits_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"text": "a"}] * 9
    corpus = Corpus(
        *("mine", rows, rows[:3], "f" * 64),
        test=rows[:4],
        notes=["a.csv is separated by [semicolons]"],
        repeated={"validation in train": 2, "test in validation": 1},
    )
    report.say_corpus(corpus, {})
    told = " ".join(capsys.readouterr().err.split())
    assert f"mine, {len(rows)} training rows, 3 validation rows, 4 test rows, ffffffffffff" in told
    assert "Note a.csv is separated by [semicolons]" in told
    assert (
        "Warning 2 of 3 validation rows are also training rows, so validation metrics are better than" in told
    )
    assert "Warning 1 of 4 test rows are also validation rows, so test metrics are better than" in told


def test_a_vocabulary_that_is_smaller_than_asked_says_why() -> None:
    tokenizer = ByteLevelBPE(9000).train(["one two one two"])
    assert report.describe_tokenizer(tokenizer, 9000).endswith(" (at most 9,000; the text yields no more)")
    for asked in (None, tokenizer.vocab_size):
        assert (
            report.describe_tokenizer(tokenizer, asked)
            == f"{tokenizer.vocab_size} tokens, {tokenizer.digest[:12]}"
        )
