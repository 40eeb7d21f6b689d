import json

import pytest

from benchmarks.gpu import LARGE, RECOMPUTE, SHAPES, as_line, main


@pytest.mark.slow
def test_estimates_are_next_to_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "tiny", "--steps", "2", "--no-peer"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["name"] for one in found] == [f"tiny, checkpointing {recompute}" for recompute in RECOMPUTE]
    assert found[0]["estimated_peak_bytes"] > found[1]["estimated_peak_bytes"] > 0
    assert all(one["step_s"] > 0 and one["estimated_step_s"] > 0 for one in found)


@pytest.mark.parametrize(("name", "parameters"), [*zip(LARGE, (124e6, 354e6, 1.01e9), strict=True)])
def test_the_shapes_have_the_sizes_of_their_names(name: str, parameters: float) -> None:
    shape = SHAPES[name]
    weights = 12 * shape.n_layers * shape.d_model**2 + shape.vocab_size * shape.d_model
    assert weights == pytest.approx(parameters, rel=0.01)


def test_a_line_has_the_difference_from_the_estimate() -> None:
    found = {"peak_bytes": 1.03e9, "estimated_peak_bytes": 1e9, "step_s": 0.1, "mfu": 0.4}
    line = as_line("124M", {**found, "estimated_step_s": 0.11, "tokens_per_second": 163840})
    assert line.split() == [
        "124M",
        "1.03",
        "GB",
        "1.00",
        "GB",
        "+3.0%",
        "0.1",
        "0.11",
        "-9.1%",
        "163,840",
        "40.0%",
    ]
