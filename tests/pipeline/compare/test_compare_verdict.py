"""What is said of runs side by side."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.compare.comparison import Comparison, compare_runs
from pipeline.compare.facts import read_facts
from pipeline.compare.select import select_runs
from pipeline.compare.verdict import verdict
from pipeline.errors import RunError
from tests.pipeline.compare.folders import TASKS, make_run

GOOD = [1.0] * 70 + [0.0] * 30
POOR = [1.0] * 50 + [0.0] * 50


def compared(runs: Path, *names: str) -> Comparison:
    return compare_runs([read_facts(run) for run in select_runs(names, runs)])


def test_a_real_difference_is_said_with_interval_p_value_rows_and_cost(tmp_path: Path) -> None:
    make_run(tmp_path, "a", scores=GOOD, steps=12)
    make_run(tmp_path, "b", scores=POOR, steps=4)
    said = verdict(compared(tmp_path, "b", "a"))
    assert said.startswith("a is significantly better than b by 0.200 accuracy [+0.1")
    assert "p < 0.001, paired test on the same 100 rows." in said
    assert said.endswith("a took 3.0 times as many seconds and 3.0 times as many tokens as b.")


def test_a_difference_that_may_be_chance_is_not_called_better(tmp_path: Path) -> None:
    make_run(tmp_path, "a", scores=[1, 0, 1, 1, 0])
    make_run(
        tmp_path,
        "b",
        scores=[
            0,
            1,
            1,
            1,
            0,
        ],
    )
    make_run(tmp_path, "c", scores=[0, 1, 0, 1, 0])
    said = verdict(compared(tmp_path, "a", "b", "c"))
    assert "a and c do not differ significantly on fewer than 30 rows: +0.200 accuracy" in said
    assert "better than" not in said


def test_runs_measured_on_validation_rows_are_ranked_by_them_and_it_is_said(tmp_path: Path) -> None:
    make_run(tmp_path, "a", scores=GOOD, split="validation", metrics={"val/accuracy": 0.6})
    make_run(tmp_path, "old", scores=POOR, split="validation")
    comparison = compared(tmp_path, "a", "old")
    assert comparison.metric == "val/accuracy"
    assert set(comparison.metrics) == {"val/accuracy"}
    assert [score and score.value for score in comparison.metrics["val/accuracy"]] == [0.7, 0.5]
    assert any(
        note.startswith("The weights of a and old were selected on the measured validation rows")
        for note in comparison.notes
    )


def test_a_run_measured_on_test_rows_is_not_ranked_with_one_on_validation_rows(tmp_path: Path) -> None:
    make_run(tmp_path, "a", scores=GOOD)
    make_run(tmp_path, "b", scores=POOR, split="validation", metrics={"val/accuracy": 0.5})
    assert compared(tmp_path, "a", "b").metric is None


def test_a_score_of_a_row_that_is_no_number_leaves_the_pair_untested(tmp_path: Path) -> None:
    make_run(tmp_path, "a", scores=[1.0] * 100)
    make_run(tmp_path, "b", scores=[float("nan"), *[0.0] * 99])
    said = verdict(compared(tmp_path, "a", "b"))
    assert "Not tested for significance: 1 of 100 rows have a score that is not a finite number." in said


def test_runs_measured_on_different_rows_are_not_tested(tmp_path: Path) -> None:
    make_run(tmp_path, "a", scores=GOOD)
    make_run(tmp_path, "b", scores=POOR, rows=[f"other {i}" for i in range(100)])
    comparison = compared(tmp_path, "a", "b")
    said = verdict(comparison)
    assert "a has the highest accuracy, 0.7000; b has 0.5000." in said
    assert "Not tested for significance: they were measured on different rows." in said
    assert any("0 are common" in note for note in comparison.notes)


def test_runs_that_share_some_rows_are_tested_on_those(tmp_path: Path) -> None:
    make_run(tmp_path, "a", scores=GOOD)
    make_run(tmp_path, "b", scores=POOR[:80])
    comparison = compared(tmp_path, "a", "b")
    assert comparison.pairs[0].difference is not None
    assert comparison.pairs[0].difference.n_rows == 80
    assert any("80 are common" in note for note in comparison.notes)


def test_a_metric_and_the_rows_that_disagree_are_both_told(tmp_path: Path) -> None:
    for name, scores, bleu in (("a", POOR, 0.9), ("b", GOOD, 0.1)):
        folder = make_run(tmp_path, name, scores=scores)
        file = folder / "evaluation.json"
        record = json.loads(file.read_text())
        record |= {"metric": "bleu", "row_metric": None, "metrics": {"bleu": {"value": bleu}}}
        file.write_text(json.dumps(record))
    said = verdict(compared(tmp_path, "a", "b"))
    assert "a has the better bleu, but per row b is significantly better: -0.200 score per row" in said


def test_runs_of_different_tasks_are_refused_with_what_each_is(tmp_path: Path) -> None:
    make_run(tmp_path, "a")
    make_run(tmp_path, "b", stage="pretrain", task="causal_lm", scores=None)
    with pytest.raises(RunError, match=r"a is finetune classify, b is pretrain causal_lm"):
        compared(tmp_path, "a", "b")


def test_a_fine_tuning_and_an_evaluation_of_one_task_may_be_compared(tmp_path: Path) -> None:
    make_run(tmp_path, "a", scores=GOOD)
    make_run(tmp_path, "b", stage="evaluate", scores=POOR)
    assert "a is significantly better than b" in verdict(compared(tmp_path, "a", "b"))


def test_pretrainings_are_ranked_by_loss_and_by_bits_per_byte_across_tokenizers(tmp_path: Path) -> None:
    for name, loss, bits in (("a", 2.0, 3.0), ("b", 3.0, 2.0)):
        make_run(
            tmp_path,
            name,
            stage="pretrain",
            task="causal_lm",
            scores=None,
            metrics={"val/loss": loss, "val/bits_per_byte": bits},
        )
    assert "a has the lowest validation loss, 2.0000; b has 3.0000." in verdict(compared(tmp_path, "a", "b"))
    file = tmp_path / "b" / "bundles" / "best" / "provenance.json"
    file.write_text(json.dumps({"tokenizer": "another", "validation_rows": "others"}))
    assert "b has the lowest validation bits per byte" in verdict(compared(tmp_path, "a", "b"))


def test_no_common_metric_is_said(tmp_path: Path) -> None:
    make_run(tmp_path, "a", scores=None, metrics={"val/loss": 1.0})
    make_run(tmp_path, "b", scores=None, metrics={"test/loss": 1.0})
    assert verdict(compared(tmp_path, "a", "b")).startswith("No metric is common to all runs: a has val/loss")


def test_only_settings_that_differ_are_shown_by_dotted_key(tmp_path: Path) -> None:
    make_run(tmp_path, "a", config={"optimizer": {"lr": 0.1, "beta": 1}, "name": "a", "cache_dir": "x"})
    make_run(tmp_path, "b", config={"optimizer": {"lr": 0.2, "beta": 1}, "name": "b", "cache_dir": "y"})
    assert compared(tmp_path, "a", "b").settings == {"optimizer.lr": ["0.1", "0.2"]}


def test_of_an_evaluation_options_of_training_are_no_difference_and_those_it_reads_are(
    tmp_path: Path,
) -> None:
    trainer = {"_target_": "pipeline.machine.options.TrainerOptions", "batch_size": 16, "accumulate": 1}
    make_run(tmp_path, "a", config={"optimizer": {"lr": 0.1}, "trainer": {**trainer, "max_steps": 20}})
    other = {**trainer, "max_steps": 600, "batch_size": 4}
    make_run(tmp_path, "b", stage="evaluate", config={"trainer": other})
    assert compared(tmp_path, "a", "b").settings == {"trainer.batch_size": ["16", "4"]}


def test_an_evaluation_has_the_options_of_its_bundle_where_none_are_typed(tmp_path: Path) -> None:
    task = {"_target_": TASKS["qa"], "n_best": 20, "stride": 64}
    trained = make_run(tmp_path, "a", task="qa", config={"task": task, "optimizer": {"lr": 0.1}})
    for name, typed in (("b", {}), ("c", {"n_best": 5})):
        config = {"bundle": "a", "task": {"_target_": TASKS["qa"], **typed}}
        folder = make_run(tmp_path, name, task="qa", stage="evaluate", config=config)
        (folder / "bundles" / "best" / "config.yaml").write_text((trained / "config.yaml").read_text())
    assert compared(tmp_path, "a", "b").settings == {}
    assert compared(tmp_path, "b", "c").settings == {"task.n_best": ["20", "5"]}


def test_groups_that_only_one_stage_knows_are_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path, "a", config={"optimizer": {"lr": 0.1}, "seed": 1})
    make_run(tmp_path, "b", stage="evaluate", config={"seed": 2})
    assert compared(tmp_path, "a", "b").settings == {"seed": ["1", "2"]}


def test_secrets_in_settings_are_not_shown(tmp_path: Path) -> None:
    make_run(tmp_path, "a", config={"data": {"password": "first-secret"}})
    make_run(tmp_path, "b", config={"data": {"password": "second-secret"}})
    assert compared(tmp_path, "a", "b").settings == {}


def test_a_deleted_bundle_is_said_and_what_is_known_goes_on(tmp_path: Path) -> None:
    make_run(tmp_path, "a", scores=GOOD)
    make_run(tmp_path, "b", scores=POOR)
    shutil.rmtree(tmp_path / "b" / "bundles")
    comparison = compared(tmp_path, "a", "b")
    assert "a is significantly better than b by 0.200 accuracy" in verdict(comparison)
    assert any(note.startswith("b has no bundle that can be found") for note in comparison.notes)


def test_a_run_that_was_not_tracked_or_has_not_finished_is_said(tmp_path: Path) -> None:
    make_run(tmp_path, "a")
    folder = make_run(tmp_path, "b")
    shutil.rmtree(folder / "tracking")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "KILLED"}))
    notes = compared(tmp_path, "a", "b").notes
    assert any(note.startswith("b was not tracked") for note in notes)
    assert any(note.startswith("b has not finished (KILLED)") for note in notes)


def test_a_half_written_file_of_a_run_is_passed_over(tmp_path: Path) -> None:
    make_run(tmp_path, "a", scores=GOOD)
    folder = make_run(tmp_path, "b", scores=POOR)
    (folder / "evaluation.json").write_text('{"task": "Text')
    said = verdict(compared(tmp_path, "a", "b"))
    assert "Not tested for significance: one of them has no scores per row." in said
