"""Swept keys: Hydra's grammar in, Optuna's distributions and words out."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.config.groups import groups
from pipeline.errors import ConfigError
from pipeline.sweep.space import combinations, examples, read_words, word_of


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("optimizer.lr=1e-4,3e-4", ["0.0001", "0.0003"]),
        ("size=tiny,small", ["tiny", "small"]),
        ("dropout=null,0.1", ["null", "0.1"]),
        ("seed=range(1,4)", ["1", "2", "3"]),
        ("dropout=range(0.1,0.45,0.1)", ["0.1", "0.2", "0.3", "0.4"]),
        ("data.train=choice('my poem.txt',b.txt)", ["my\\ poem.txt", "b.txt"]),
        ("trainer.compile=true,false", ["True", "False"]),
        ("prompts=[a,b],[c]", ["[a,b]", "[c]"]),
        ("seed=1,1,2", ["1", "2"]),
        ("data.train=数据.csv,b.csv", ["'数据.csv'", "b.csv"]),
    ],
)
def test_a_list_is_its_values_as_they_are_typed(typed: str, values: list[str]) -> None:
    fixed, (key,) = read_words([typed, "debug=quick"], listed=True)
    assert fixed == ["debug=quick"]
    assert key.values == values
    assert key.distribution == CategoricalDistribution(values)


def test_a_glob_stands_for_the_options_of_its_group() -> None:
    _, (key,) = read_words(["size=glob(*, exclude=large)"], listed=True)
    assert key.values == [name for name in groups()["size"] if name != "large"]


@pytest.mark.parametrize(
    ("typed", "distribution"),
    [
        ("dropout=interval(0,0.5)", FloatDistribution(0.0, 0.5)),
        ("optimizer.lr=tag(log, interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("trainer.batch_size=int(interval(4,64))", IntDistribution(4, 64)),
        ("trainer.batch_size=range(8,33,8)", IntDistribution(8, 32, step=8)),
        ("trainer.batch_size=tag(log, range(1,9))", IntDistribution(1, 8, log=True)),
        ("size=tiny,small", CategoricalDistribution(["tiny", "small"])),
    ],
)
def test_a_range_is_drawn_from_by_its_numbers(typed: str, distribution: object) -> None:
    _, (key,) = read_words([typed], listed=False)
    assert key.distribution == distribution


@pytest.mark.parametrize(
    ("words", "listed", "says"),
    [
        (["size=nano"], True, "nothing to sweep"),
        (["seed=1,2", "seed=3,4"], True, "seed is swept twice"),
        (["dropout=interval(0,0.5)"], True, "choose sweep.sampler=random"),
        (["dropout=interval(0.5,0.1)"], False, "dropout=interval(0.5,0.1)"),
        (["optimizer.lr=tag(log, interval(0,1))"], False, "optimizer.lr=tag(log"),
        (["seed=tag(later, choice(1,2))"], True, "the tag later is not supported"),
        (["size=glob(z*)"], True, "has no values"),
        (["seed=1,2", "nonsense"], True, "nonsense"),
        (["seed=1,2,["], True, "key=a,b,c"),
    ],
)
def test_what_cannot_be_swept_is_refused_with_a_remedy(words: list[str], listed: bool, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_words(words, listed=listed)
    assert says in str(caught.value)


def test_a_grid_is_in_the_order_typed_with_the_last_key_changing_first() -> None:
    _, swept = read_words(["size=tiny,small", "seed=1,2"], listed=True)
    assert [tuple(each.values()) for each in combinations(swept)] == [
        ("tiny", "1"), ("tiny", "2"), ("small", "1"), ("small", "2"),
    ]  # fmt: skip


def test_every_value_of_a_list_is_tried_before_any_combination_is_tried_twice() -> None:
    _, swept = read_words(["size=tiny,small", f"seed={','.join(map(str, range(50)))}"], listed=True)
    first = [each["seed"] for each, _ in zip(examples(swept), range(50), strict=False)]
    assert first == [str(number) for number in range(50)]


def test_a_drawn_number_is_a_word_to_the_last_digit() -> None:
    assert float(word_of(0.1 + 0.2)) == 0.1 + 0.2
    assert word_of("nano") == "nano"
