import pytest
import torch

from benchmarks import side_by_side
from benchmarks.bench import as_line
from benchmarks.peers.plain import PlainLoop
from benchmarks.shapes import SHAPES, Shape
from benchmarks.side_by_side import compare, loops_of, measure_rates
from modules.transformer import Decoder
from pipeline.config.compose import compose
from pipeline.config.construct import construct


def test_a_ratio_is_taken_within_each_turn_so_that_a_slow_moment_meets_both() -> None:
    asked = []

    def ours(n: int) -> float:
        asked.append(n)
        return 0.5 * n

    (row,) = compare(
        "x", {"ours": ours, "peer": lambda n: n * 1.0}, amount=10, unit="t/s", n_turns=3, more={}
    )
    assert row.ratio == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert (row.ours["median"], row.theirs["median"]) == (20.0, 10.0)
    assert asked == [2, 5, 5, 5]  # two and a half seconds a turn
    assert "2.00 (2.00 to 2.00)" in as_line(row)


def test_no_further_turn_begins_after_a_while_unless_a_number_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(side_by_side, "TURNS_S", 0.0)
    loops = {"ours": lambda n: n * 1.0}
    assert {n: len(measure_rates(loops, 1.0, n)["ours"]) for n in (None, 1, 3)} == {None: 1, 1: 1, 3: 3}
    monkeypatch.setattr(side_by_side, "TURNS_S", 60.0)
    assert len(measure_rates(loops, 1.0, None)["ours"]) == 3


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_of_the_peers_is_that_of_ours(name: str) -> None:
    shape = SHAPES[name]
    config = compose("pretrain", shape.overrides())
    with torch.device("meta"):
        backbone = construct(config.model.backbone, Decoder, vocab_size=shape.vocab_size)
    matrices = sum(weight.numel() for weight in backbone.parameters() if weight.ndim == 2)
    assert shape.flops == 6 * shape.tokens * (matrices + 2 * shape.n_layers * shape.block * shape.d_model)


@pytest.mark.slow
def test_every_loop_trains() -> None:
    shape = Shape(n_layers=1, d_model=32, n_heads=2, block=16, batch=2, vocab_size=400)
    with loops_of(shape, bf16=False) as loops:
        assert {name: run(1) > 0 for name, run in loops.items()} == dict.fromkeys(loops, True)


def test_the_plain_loop_learns_its_rows() -> None:
    shape = Shape(n_layers=1, d_model=32, n_heads=2, block=8, batch=64, vocab_size=50)
    loop = PlainLoop(shape, bf16=False, device=torch.device("cpu"))
    rows = loop.rows
    with torch.no_grad():
        before = loop.model(rows[:, :-1], rows[:, 1:]).item()
    loop.run(60)
    with torch.no_grad():
        assert loop.model(rows[:, :-1], rows[:, 1:]).item() < before - 0.5
