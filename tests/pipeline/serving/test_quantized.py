"""A bundle served with 8-bit weights writes what it writes alone with 8-bit weights."""

from functools import partial
from pathlib import Path

import openai
import pytest
import torch

from modules.quantization import quantize
from pipeline.runs.bundle import load_bundle
from pipeline.serving.served import load_served
from tests.pipeline.serving.models import serving

BUNDLE = Path(__file__).parents[2] / "fixtures" / "version_0_1" / "old-pretrain" / "bundles" / "best"


def test_eight_rows_together_are_written_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    round_all = partial(quantize, at_least=1)
    monkeypatch.setattr("pipeline.runs.placing.quantize", round_all)
    prompts = [f"Once {name}" for name in ("Emil", "Ida", "a", "the baker", "two", "so", "in May", "it")]
    model = load_served("old", BUNDLE, quantization="int8")
    alone = load_bundle(BUNDLE)
    batch = {"input_ids": torch.randint(5, 50, (1, 9))}
    with torch.no_grad():
        exact = alone.model(batch)
        round_all(alone.model)
        assert torch.equal(model.bundle.model(batch), alone.model(batch))
        assert not torch.equal(exact, alone.model(batch))
    assert "8-bit weights in 7 of 7 matrices" in model.description
    expected = [alone.generate(each, temperature=0.0, max_new_tokens=20) for each in prompts]
    with serving([model]) as running, openai.OpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
        done = client.completions.create(model=model.name, prompt=prompts, max_tokens=20, temperature=0)
    assert [prompt + choice.text for prompt, choice in zip(prompts, done.choices, strict=True)] == expected
