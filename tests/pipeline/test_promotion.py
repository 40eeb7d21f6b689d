"""A pretrained challenger is judged by the losses of the rows that both read."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RunError
from pipeline.language_evaluation import LanguageEvaluation
from pipeline.promotion import judge
from pipeline.registry import Version
from pipeline.tasks.causal_lm import CausalLM

N_ROWS = 60


def version(tmp_path: Path, name: str, mean: float, *, corpus: str = "poem", rows: bool = True) -> Version:
    """A bundle whose rows cost about `mean` nats a token, and differ alike in all bundles."""
    folder = tmp_path / name / "bundles" / "best"
    folder.mkdir(parents=True)
    spread = np.random.default_rng(0).normal(0, 1, N_ROWS)
    noise = np.random.default_rng(len(name)).normal(0, 0.02, N_ROWS)
    losses = np.stack([10 * (mean + spread + noise), np.full(N_ROWS, 10.0)], axis=1)
    loss = float(losses[:, 0].sum() / losses[:, 1].sum())
    made = LanguageEvaluation(
        task=CausalLM(),
        values={"loss": loss, "perplexity": float(np.exp(loss))},
        rows=[f"{corpus}-{i}" for i in range(N_ROWS)],
        losses=losses,
    )
    if rows:
        made.save(folder.parents[1], corpus=corpus, split="validation", prefix="val")
    (folder / "metrics.json").write_text(json.dumps(made.metrics("val")))
    (folder / "task.json").write_text(json.dumps({"_target_": "pipeline.tasks.causal_lm.CausalLM"}))
    return Version(name="lm", number=name, aliases=(), folder=folder, digest=name)


@pytest.mark.parametrize(("mean", "better"), [(3.95, True), (4.0, False), (4.05, False)])
def test_a_loss_that_is_lower_row_by_row_wins_however_much_rows_differ(
    mean: float, better: bool, tmp_path: Path
) -> None:
    verdict = judge(version(tmp_path, "new", mean), version(tmp_path, "champion", 4.0), tmp_path)
    assert verdict.is_better == better
    assert f"on the same {N_ROWS} rows; loss " in verdict.numbers


def test_without_rows_the_intervals_of_the_losses_must_not_touch(tmp_path: Path) -> None:
    champion = version(tmp_path, "champion", 4.0, rows=False)
    near, far = (version(tmp_path, name, mean, rows=False) for name, mean in (("near", 3.9), ("far", 2.0)))
    assert not judge(near, champion, tmp_path).is_better
    assert judge(far, champion, tmp_path).is_better


def test_losses_of_different_rows_are_not_judged(tmp_path: Path) -> None:
    champion = version(tmp_path, "champion", 4.0)
    with pytest.raises(RunError, match="measured on different rows") as caught:
        judge(version(tmp_path, "new", 1.0, corpus="prose"), champion, tmp_path)
    assert "`make evaluate` for a pretrained model" in str(caught.value)
