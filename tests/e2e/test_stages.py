"""Each stage as a user runs it, on a corpus of a few kilobytes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from modules.quantization import quantize
from pipeline.runs.bundle import load_bundle

QUICK = ("debug=quick", "tracking=off", "tokenizer=bytes", "packing=concat")
Run = Callable[..., "object"]


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm", "denoise"])
def test_pretraining_learns_and_leaves_a_bundle_that_generates_and_evaluates(
    task: str, run, text_file: Path
) -> None:
    files = ("data=files", f"data.train={text_file}")
    trained = run("pretrain", f"task={task}", *files, *QUICK, "trainer.max_steps=30")
    assert trained.code == 0, trained.err
    result = trained.result
    assert result["stage"] == "pretrain"
    assert result["metrics"]["val/loss"] < 5.0  # ln 298 = 5.7 before training
    bundle = load_bundle(Path(result["bundle"]))
    assert bundle.metrics == result["metrics"]
    assert bundle.provenance["tokenizer"] == bundle.tokenizer.digest
    assert "done" in trained.err
    assert "Samples" in trained.err

    evaluated = run(
        "evaluate", *files, "tracking=off", "packing=concat", "trainer.batch_size=4", "trainer.val_rows=16"
    )
    assert evaluated.code == 0, evaluated.err
    assert evaluated.result["metrics"]["val/loss"] == pytest.approx(result["metrics"]["val/loss"], rel=0.02)

    prompt = "Line <mask> of a" if bundle.task.fills_gaps else "Line"
    written = run("generate", f"prompts=['{prompt}']", "sampling.max_new_tokens=8")
    assert written.code == 0, written.err
    assert written.result["output"][0].startswith("Line")


@pytest.mark.slow
def test_the_last_line_of_standard_output_is_the_result_and_nothing_else_is_there(
    run, text_file: Path
) -> None:
    done = run("pretrain", "data=files", f"data.train={text_file}", *QUICK)
    assert len(done.out.splitlines()) == 1
    assert set(done.result) == {"stage", "run_id", "bundle", "metrics"}


@pytest.mark.slow
def test_a_bundle_goes_on_training_on_other_text_with_its_own_tokenizer(run, small_bundle: Path) -> None:
    other = small_bundle / "other.txt"
    other.write_text("Something quite different stands here, again and again.\n" * 200)
    again = run(
        "pretrain", "data=files", f"data.train={other}", "init_from=latest", "debug=quick", "tracking=off"
    )
    assert again.code == 0, again.err
    second = load_bundle(Path(again.result["bundle"]))
    first = load_bundle(Path("runs/base/bundles/best"))
    assert second.tokenizer.digest == first.tokenizer.digest
    assert second.provenance["init_from"] == str(first.folder)  # not "latest", which will be another one soon


def test_a_bundle_is_not_trained_further_in_another_architecture(run, small_bundle: Path) -> None:
    words = ("data=files", "data.train=my.txt", "init_from=latest", "debug=quick", "tracking=off")
    refused = run("pretrain", "task=masked_lm", *words)
    assert refused.code == 2
    assert "is a Decoder, but task=masked_lm trains an Encoder" in refused.error


def test_the_tokenizer_stage_writes_a_tokenizer_and_measures_it(run, text_file: Path) -> None:
    done = run(
        "tokenizer", "data=files", f"data.train={text_file}", "tokenizer.vocab_size=330", "tracking=off"
    )
    assert done.code == 0, done.err
    assert done.result["metrics"]["vocab_size"] == 330
    assert done.result["metrics"]["val/bytes_per_token"] > 1.5


def test_show_data_prints_a_row_with_its_labels(run, text_file: Path) -> None:
    done = run("show-data", "data=files", f"data.train={text_file}", "tokenizer=bytes", "size=nano")
    assert done.code == 0, done.err
    assert "label" in done.out


@pytest.mark.slow
def test_a_second_run_finds_tokens_and_tokenizer_in_the_cache(run, small_bundle: Path) -> None:
    def written() -> dict[Path, int]:
        files = [file for file in (small_bundle / ".cache").rglob("*") if file.is_file()]
        return {file: file.stat().st_mtime_ns for file in files if file.suffix != ".lock"}

    before = written()
    assert run("pretrain", "data=files", "data.train=my.txt", *QUICK, "trainer.max_steps=1").code == 0
    assert before
    assert written() == before


@pytest.mark.slow
def test_8_bit_weights_generate_and_are_evaluated_by_one_key(
    run, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = run("generate", "prompts=[Line]", "sampling.max_new_tokens=8", "quantization=int8")
    assert small.code == 0, small.err
    assert "0 of 13 matrices (they are too small to be faster)" in " ".join(small.err.split())
    monkeypatch.setattr("pipeline.runs.placing.quantize", partial(quantize, at_least=1))
    evaluate = ("evaluate", "data=files", "data.train=my.txt", "tracking=off", "trainer.val_rows=16")
    plain, rounded = run(*evaluate), run(*evaluate, "quantization=int8")
    assert rounded.code == 0, rounded.err
    loss, expected = (each.result["metrics"]["val/loss"] for each in (rounded, plain))
    assert loss != expected
    assert loss == pytest.approx(expected, rel=0.01)
    assert "8-bit weights in 13 of 13 matrices" in " ".join(rounded.err.split())
    written = run("generate", "prompts=[Line]", "sampling.max_new_tokens=8", "quantization=int8")
    assert written.code == 0, written.err
    assert written.result["output"][0].startswith("Line")
    wrong = run("generate", "quantization=int4")
    assert wrong.code == 2
    assert "int8" in wrong.err


def test_evaluating_without_any_bundle_says_what_to_do(run) -> None:
    refused = run("evaluate", "tracking=off")
    assert refused.code == 2
    assert "no finished pretrain bundle under runs" in refused.error
    assert "run `make pretrain` first" in refused.error
