"""The plan of a sweep: which trials, which metric decides, what they are called."""

import pytest

from pipeline.compare.comparison import ACROSS_TOKENIZERS
from pipeline.errors import ConfigError
from pipeline.runs.folders import MAX_NAME_LENGTH
from pipeline.sweep.naming import run_name, short_keys, short_values
from pipeline.sweep.options import SweepOptions
from pipeline.sweep.plan import Plan, make_plan


def plan(*words: str, **options: object) -> Plan:
    return make_plan(SweepOptions(**options), words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stage", "word", "decides"),
    [
        ("pretrain", "seed=1,2", ("val/loss", "minimize")),
        ("pretrain-masked_lm", "seed=1,2", ("val/loss", "minimize")),
        ("pretrain", "tokenizer=bpe,bytes", (ACROSS_TOKENIZERS[0], "minimize")),
        ("pretrain", "tokenizer.vocab_size=600,900", (ACROSS_TOKENIZERS[0], "minimize")),
        ("finetune-classify", "seed=1,2", ("val/accuracy", "maximize")),
        ("finetune-qa", "seed=1,2", ("val/f1", "maximize")),
        ("finetune-chat", "seed=1,2", ("val/reply_perplexity", "minimize")),
    ],
)
def test_what_chooses_the_best_weights_of_a_stage_decides_between_trials(
    stage: str, word: str, decides: tuple[str, str]
) -> None:
    made = plan(word, stage=stage)
    assert (made.metric, made.direction) == decides


def test_a_metric_that_is_asked_for_decides_in_its_own_direction_or_the_one_given() -> None:
    assert plan("seed=1,2", metric="val/perplexity").direction == "minimize"
    assert plan("seed=1,2", metric="val/accuracy").direction == "maximize"
    assert plan("seed=1,2", metric="val/accuracy", direction="minimize").direction == "minimize"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "options", "says"),
    [
        (["seed=1,2"], {"stage": "finetune-clasify"}, "did you mean STAGE=finetune-classify?"),
        (["seed=1,2"], {"stage": "evaluate"}, "sweep.stage=evaluate cannot be swept"),
        (["seed=1,2"], {"stage": "finetune-causal_lm"}, "learns from raw text"),
        (["optimizer.rate=1e-3,4e-3"], {}, "no trial is valid: optimizer.rate: Muon takes no such key"),
        (["fix=true,false"], {}, "no trial is valid: fix: pretrain takes no such key"),
        (["seed=1,2", "sizee=nano"], {}, "did you mean size?"),
        (["task=causal_lm,masked_lm"], {}, "give sweep.metric=NAME"),
    ],
)
def test_a_sweep_of_which_no_trial_can_run_is_refused_before_the_first(
    words: list[str], options: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(*words, **options)
    assert says in str(caught.value)


def test_one_possible_value_among_impossible_ones_is_enough() -> None:
    assert plan("size=nan0,huge,nano", "optimizer=sgd,muon").n_trials == 6


def test_a_grid_has_every_combination_and_no_number_of_trials() -> None:
    assert plan("seed=1,2,3", "size=nano,tiny").n_trials == 6
    with pytest.raises(ConfigError, match=r"sweep\.trials is given with sweep\.sampler=grid"):
        SweepOptions(trials=3)
    assert plan("dropout=interval(0,0.5)", sampler="random", stage="finetune-qa").n_trials == 20
    assert plan("seed=1,2", sampler="optuna", trials=7).n_trials == 7


def test_keys_are_shown_by_as_few_parts_as_tell_them_apart() -> None:
    keys = ["optimizer.lr", "data.columns.text", "cleaning.text", "size"]
    assert list(short_keys(keys).values()) == ["lr", "columns.text", "cleaning.text", "size"]
    assert short_values({"optimizer.lr": "0.00031622776601683794", "seed": "7"}) == {
        "lr": "0.0003162",
        "seed": "7",
    }


def test_a_trial_is_named_by_what_it_changes_in_letters_that_need_no_quotes() -> None:
    name = run_name("sweep-1", 3, {"optimizer.lr": "0.001", "data.train": "'my poems/a,b.txt'"})
    assert name.startswith("sweep-1-03-lr-0.001+train-")
    assert not set(name) & set(" /,'\"=$")
    long = run_name("a sweep of a very long name, longer than any", 12, {"size": "x" * 80})
    assert len(long) <= MAX_NAME_LENGTH
    assert "-12-size" in long
