"""Each stage as a user runs it, on a corpus of a few kilobytes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.runs.bundle import load_bundle, read_done

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


def test_the_last_line_of_standard_output_is_the_result_and_nothing_else_is_there(
    run, text_file: Path
) -> None:
    done = run("pretrain", "data=files", f"data.train={text_file}", *QUICK)
    assert len(done.out.splitlines()) == 1
    assert set(done.result) == {"stage", "run_id", "bundle", "metrics"}


def test_a_bundle_goes_on_training_on_other_text_with_its_own_tokenizer(
    run, text_file: Path, tmp_path: Path
) -> None:
    first = run("pretrain", "data=files", f"data.train={text_file}", *QUICK).result
    other = tmp_path / "other.txt"
    other.write_text("Something quite different stands here, again and again.\n" * 200)
    again = run(
        "pretrain", "data=files", f"data.train={other}", "init_from=latest", "debug=quick", "tracking=off"
    )
    assert again.code == 0, again.err
    second = load_bundle(Path(again.result["bundle"]))
    assert second.tokenizer.digest == load_bundle(Path(first["bundle"])).tokenizer.digest
    assert second.provenance["init_from"] == first["bundle"]  # not "latest", which will be another one soon


def test_a_bundle_is_not_trained_further_in_another_arrangement(run, text_file: Path) -> None:
    files = ("data=files", f"data.train={text_file}")
    assert run("pretrain", *files, *QUICK).code == 0
    refused = run("pretrain", "task=masked_lm", *files, "init_from=latest", "debug=quick", "tracking=off")
    assert refused.code == 2
    assert "holds a Decoder, and task=masked_lm trains an Encoder" in refused.error


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


def test_a_second_run_finds_tokens_and_tokenizer_in_the_cache(run, text_file: Path, tmp_path: Path) -> None:
    assert run("pretrain", "data=files", f"data.train={text_file}", *QUICK).code == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / ".cache").rglob("*") if file.is_file()}
    assert run("pretrain", "data=files", f"data.train={text_file}", *QUICK).code == 0
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / ".cache").rglob("*") if file.is_file()}
    assert {file: after[file] for file in before if file.suffix != ".lock"} == {
        file: time for file, time in before.items() if file.suffix != ".lock"
    }


def test_evaluating_without_any_bundle_says_what_to_do(run) -> None:
    refused = run("evaluate", "tracking=off")
    assert refused.code == 2
    assert "no finished pretrain bundle under runs" in refused.error
    assert "run `make pretrain` first" in refused.error


def test_a_bundle_without_done_is_not_consumed(run, text_file: Path) -> None:
    made = Path(run("pretrain", "data=files", f"data.train={text_file}", *QUICK).result["bundle"])
    (made / "DONE").unlink()
    refused = run("generate", f"bundle={made}")
    assert refused.code == 2
    assert "not a finished bundle" in refused.error


def test_a_damaged_bundle_is_not_consumed(run, text_file: Path) -> None:
    made = Path(run("pretrain", "data=files", f"data.train={text_file}", *QUICK).result["bundle"])
    weights = made / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused = run("generate", f"bundle={made}")
    assert refused.code == 2
    assert "is not the file that was saved" in refused.error


def test_a_bundle_that_names_foreign_code_is_not_built(run, text_file: Path) -> None:
    made = Path(run("pretrain", "data=files", f"data.train={text_file}", *QUICK).result["bundle"])
    parts = json.loads((made / "task.json").read_text())
    parts["_target_"] = "os.system"
    (made / "task.json").write_text(json.dumps(parts))
    done = read_done(made)
    import hashlib

    done["task.json"] = hashlib.sha256((made / "task.json").read_bytes()).hexdigest()
    (made / "DONE").write_text(json.dumps(done))
    refused = run("generate", f"bundle={made}")
    assert refused.code == 2
    assert "cannot import 'os.system'" in refused.error
