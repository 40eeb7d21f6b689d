import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.hidden_words import hide
from benchmarks.masked_optimum import Score, figures, fill, main
from datamodules.storyworld import StoryWorld
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.model import build_model
from pipeline.config.plain import to_plain
from pipeline.runs.bundle import load_bundle, save_bundle

MASKED = ("task=masked_lm", "size=nano", "size.max_seq_len=256", "tokenizer.vocab_size=1024", "tracking=off")


def write_bundle(folder: Path, *overrides: str) -> Path:
    """A bundle of a model with its first weights."""
    config = compose("pretrain", [*MASKED, *overrides])
    torch.manual_seed(0)
    tokenizer = construct(config.tokenizer).train(row["text"] for row in StoryWorld(300).rows("train"))
    save_bundle(
        folder,
        model=build_model(to_plain(config.model), tokenizer),
        tokenizer=tokenizer,
        model_config=to_plain(config.model),
        task_config=to_plain(config.task),
        config=to_plain(config),
        provenance={"run": "untrained", "step": 0},
        metrics={},
    )
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(words) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return dict(json.loads(line))


@pytest.mark.slow
def test_an_untrained_model_falls_short_of_the_optimum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "bundle", "data.languages={de: 1.0, zh: 1.0}")
    found = run(capsys, "--bundle", str(bundle), "--rows", "6")
    overall = found["overall"]
    assert overall["rows"] == 6
    assert overall["words"] == sum(part["words"] for part in found["languages"].values()) > 15
    assert overall["model"]["share"] < 0.2
    assert 0.5 < overall["optimum"]["share"] < 1
    assert overall["optimum"]["low"] <= overall["optimum"]["share"] <= overall["optimum"]["high"]
    assert overall["short_of_optimum"]["share"] == pytest.approx(
        overall["optimum"]["share"] - overall["model"]["share"], abs=2e-4
    )
    assert overall["optimal_guesser"]["share"] == pytest.approx(overall["optimum"]["share"], abs=0.25)
    again = run(capsys, "--bundle", str(bundle), "--rows", "6")
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_the_model_fills_what_is_hidden_from_what_is_seen_alone(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "bundle"))
    text = StoryWorld(languages={"en": 1.0}).row("validation", 0)["text"]
    story = hide(text, bundle.tokenizer, rate=0.15, random=np.random.default_rng(0))
    hidden = {i for unit in story.hidden for i in range(unit.first_token, unit.end_token)}
    other = [bundle.tokenizer.vocab_size - 1 if i in hidden else token for i, token in enumerate(story.ids)]
    filled = fill(bundle, story)
    assert filled == fill(bundle, type(story)(story.words, tuple(other), story.hidden))
    assert all(filled[i] == token for i, token in enumerate(story.ids) if i not in hidden)
    assert not {filled[i] for i in hidden} & set(bundle.tokenizer.special_ids)


def test_each_guess_is_put_in_the_place_that_the_model_made_it_for(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "bundle"))
    tokenizer = bundle.tokenizer
    story = hide(
        StoryWorld().row("validation", 0)["text"], tokenizer, rate=0.15, random=np.random.default_rng(0)
    )
    truth = torch.tensor([[tokenizer.bos_id, *story.ids, tokenizer.eos_id]])

    def model_that_knows(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        masked = batch["input_ids"] == tokenizer.mask_id
        assert torch.equal(batch["input_ids"][~masked], truth[~masked])
        assert masked.sum() == sum(unit.end_token - unit.first_token for unit in story.hidden)
        return torch.nn.functional.one_hot(truth, tokenizer.vocab_size).float()

    knowing: Any = model_that_knows
    assert fill(replace(bundle, model=knowing), story) == story.ids


def test_stories_longer_than_the_model_reads_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "bundle", "size.max_seq_len=150", "data.n_validation_rows=12")
    found = run(capsys, "--bundle", str(bundle), "--rows", "12")
    assert 0 < found["rows_too_long"] == 12 - found["overall"]["rows"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["size.max_seq_len=20", "data.n_validation_rows=3"], "are all longer than"),
        (["task=causal_lm"], "was trained for CausalLM"),
        (["data=files", "data.train=a.txt"], "not trained on stories"),
        (["data.view=qa"], "not trained on stories"),
        (["cleaning.lowercase=true"], "changed by cleaning"),
    ],
)
def test_a_bundle_that_has_no_known_optimum_is_refused(
    overrides: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "bundle", *overrides)
    assert main(["--bundle", str(bundle), "--rows", "3"]) == 2
    assert problem in capsys.readouterr().err


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        rows = [
            Score(language="en", n_words=n, n_model=int(random.binomial(n, 0.6)), n_guesser=0, expected=n)
            for n in random.integers(5, 30, 40).tolist()
        ]
        found = figures(rows)["model"]
        covered += found["low"] <= 0.6 <= found["high"]
    assert 50 <= covered <= 60


def test_one_story_has_no_interval() -> None:
    score = Score(language="en", n_words=4, n_model=1, n_guesser=2, expected=2.4)
    assert figures([score])["optimum"] == {"share": 0.6, "low": None, "high": None}
