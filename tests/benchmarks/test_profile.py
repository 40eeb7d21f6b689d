import json

import pytest

from benchmarks.profile import KINDS, REST, main


@pytest.mark.slow
def test_the_time_of_a_step_is_told_by_phase_and_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["debug=quick", "tokenizer.vocab_size=400", "trainer.precision=fp32", "--steps", "2"]
    assert main(words) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert sum(found["phases"].values()) == pytest.approx(1, abs=0.01)
    assert sum(found["kinds"].values()) == pytest.approx(1, abs=0.01)
    assert set(found["kinds"]) <= {*KINDS, REST}
    assert min(found["phases"].values()) > 0
    assert "tokens per second in fp32" in printed.err


def test_a_wrong_key_is_answered_as_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size=smal"]) == 2
    assert "error: " in capsys.readouterr().err
