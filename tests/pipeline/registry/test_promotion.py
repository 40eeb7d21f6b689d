"""A challenger is judged by the paired test on rows that both models have read."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from pipeline.errors import RunError
from pipeline.evaluation.language import LanguageEvaluation
from pipeline.evaluation.rows import Evaluation, HeldOut, save_evaluation
from pipeline.registry.promotion import judge
from pipeline.registry.versions import Version
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.finetuning import Prediction

N_ROWS = 60


def version(
    tmp_path: Path, name: str, mean: float, *, corpus: str = "poem", rows: bool = True, n_rows: int = N_ROWS
) -> Version:
    """A bundle whose rows cost about `mean` nats a token, and differ alike in all bundles."""
    folder = tmp_path / name / "bundles" / "best"
    folder.mkdir(parents=True)
    spread = np.random.default_rng(0).normal(0, 1, n_rows)
    noise = np.random.default_rng(len(name)).normal(0, 0.02, n_rows)
    losses = np.stack([10 * (mean + spread + noise), np.full(n_rows, 10.0)], axis=1)
    loss = float(losses[:, 0].sum() / losses[:, 1].sum())
    made = LanguageEvaluation(
        task=CausalLM(),
        on=HeldOut(corpus=corpus, split="validation", chose_weights=True),
        values={"loss": loss, "perplexity": float(np.exp(loss))},
        rows=[f"{corpus}-{i}" for i in range(n_rows)],
        losses=losses,
    )
    if rows:
        made.save(folder.parents[1])
    (folder / "metrics.json").write_text(json.dumps(made.metrics))
    (folder / "task.json").write_text(json.dumps({"_target_": "pipeline.tasks.causal_lm.CausalLM"}))
    return Version(name="lm", number=name, aliases=(), folder=folder, digest=name)


def classifier(
    tmp_path: Path, name: str, n_right: int, *, split: Literal["validation", "test"] = "validation"
) -> Version:
    """A bundle that has `n_right` of 40 reviews right."""
    folder = tmp_path / name / "bundles" / "best"
    folder.mkdir(parents=True)
    task = TextClassification(label_names=["bad", "good"])
    rows = [{"text": f"{split} {i}", "label": "good"} for i in range(40)]
    made = [
        Prediction(text=label, confidence=0.9, details={"probabilities": {}})
        for label in ["good"] * n_right + ["bad"] * (40 - n_right)
    ]
    scores = task.score(made, rows, intervals=True)
    on = HeldOut(corpus="reviews", split=split, chose_weights=split == "validation")
    found = Evaluation(task=task, on=on, rows=rows, predictions=made, scores=scores)
    save_evaluation(folder.parents[1], found)
    node = {"_target_": "pipeline.tasks.classify.TextClassification", "label_names": ["bad", "good"]}
    (folder / "task.json").write_text(json.dumps(node))
    return Version(name="classify", number=name, aliases=(), folder=folder, digest=name)


@pytest.mark.parametrize(("mean", "better"), [(3.95, True), (4.0, False), (4.05, False)])
def test_a_loss_that_is_lower_row_by_row_wins_however_much_rows_differ(
    mean: float, better: bool, tmp_path: Path
) -> None:
    verdict = judge(version(tmp_path, "new", mean), version(tmp_path, "champion", 4.0), tmp_path)
    assert verdict.is_better == better
    assert f"on the same {N_ROWS} rows; loss " in verdict.numbers


def test_intervals_without_rows_are_not_judged(tmp_path: Path) -> None:
    champion = version(tmp_path, "champion", 4.0, rows=False)
    with pytest.raises(RunError, match="no scores per row of lm version champion; expected evaluations"):
        judge(version(tmp_path, "new", 2.0), champion, tmp_path)


def test_a_lead_on_a_handful_of_rows_is_not_judged(tmp_path: Path) -> None:
    new, champion = (version(tmp_path, name, mean, n_rows=29) for name, mean in (("new", 1.0), ("old", 4.0)))
    with pytest.raises(RunError, match=r"measured on 29 rows; expected at least 30 rows"):
        judge(new, champion, tmp_path)


def test_a_score_that_is_no_number_is_not_judged(tmp_path: Path) -> None:
    new, champion = version(tmp_path, "new", 1.0), version(tmp_path, "champion", 4.0)
    file = tmp_path / "new" / "evaluation.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "row_scores": [float("nan"), *record["row_scores"][1:]]}))
    with pytest.raises(RunError, match=r"1 of 60 rows have a score .* that is not a finite number"):
        judge(new, champion, tmp_path)


@pytest.mark.parametrize(("n_right", "better"), [(35, False), (36, True)])
def test_a_classifier_wins_by_the_paired_test_and_not_by_its_interval_alone(
    n_right: int, better: bool, tmp_path: Path
) -> None:
    """Five rows more are right in all 40: p = 0.0625; six: p = 0.031."""
    found = [classifier(tmp_path, name, right) for name, right in (("new", n_right), ("old", 30))]
    verdict = judge(found[0], found[1], tmp_path)
    assert verdict.is_better == better
    assert "p = 0.0" in verdict.numbers
    assert verdict.numbers.endswith("; these are validation rows, on which weights were selected")


def test_rows_that_chose_no_weights_are_judged_before_those_that_did(tmp_path: Path) -> None:
    new, champion = (classifier(tmp_path, name, right) for name, right in (("new", 40), ("old", 20)))
    for one, right in ((new, 25), (champion, 35)):
        folder = classifier(tmp_path, f"evaluated-{one.number}", right, split="test").folder.parents[1]
        record = {"name": folder.name, "stage": "evaluate", "config_hash": "x", "status": "FINISHED"}
        (folder / "run.json").write_text(json.dumps({**record, "created": "2026-01-01T00:00:00+00:00"}))
        (folder / "config.yaml").write_text(f"bundle: {one.folder.parents[1].name}\n")
    verdict = judge(new, champion, tmp_path)
    assert not verdict.is_better
    assert "accuracy 0.6250 against 0.8750" in verdict.numbers


def test_losses_of_different_rows_are_not_judged(tmp_path: Path) -> None:
    champion = version(tmp_path, "champion", 4.0)
    with pytest.raises(RunError, match="measured on different rows") as caught:
        judge(version(tmp_path, "new", 1.0, corpus="prose"), champion, tmp_path)
    assert "`make evaluate` for a pretrained model" in str(caught.value)
