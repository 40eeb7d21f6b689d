"""What a training proposes to do next."""

from pathlib import Path

import pytest

from modules.transformer import Decoder, Encoder, EncoderDecoder, Transformer
from pipeline.config.compose import compose
from pipeline.runs.folders import list_runs
from pipeline.stages.following import after_pretraining, next_comparison
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.denoise import SpanDenoising
from pipeline.tasks.masked_lm import MaskedLM
from tests.commands import pipeline_words
from tests.pipeline.compare.folders import make_run


@pytest.mark.parametrize(
    ("task", "backbone", "generate", "finetune"),
    [
        (CausalLM(), Decoder, "One sunny morning", "make finetune-classify"),
        (SpanDenoising(), EncoderDecoder, "The <mask> is in the garden.", "make finetune-summarize"),
        (MaskedLM(), Encoder, "The <mask> is in the garden.", "make finetune-tag"),
    ],
)
def test_after_pretraining_a_task_that_starts_from_this_bundle_is_proposed(
    task: CausalLM, backbone: type[Transformer], generate: str, finetune: str, tmp_path: Path
) -> None:
    make_run(tmp_path, "new", stage="pretrain", task="causal_lm")
    (run,) = list_runs(tmp_path)
    commands = list(after_pretraining(run, task, backbone))
    assert commands[:2] == [f'make generate PROMPT="{generate}"', finetune]


def test_a_comparison_is_proposed_where_there_is_another_run_of_the_task(tmp_path: Path) -> None:
    make_run(tmp_path, "old", created="2026-01-01T00:00:00+00:00")
    make_run(tmp_path, "other", task="qa", created="2026-01-02T00:00:00+00:00")
    make_run(tmp_path, "new", created="2026-01-03T00:00:00+00:00")
    new, other, _ = list_runs(tmp_path)
    assert next_comparison(other) == {}
    assert next_comparison(new) == {'make compare RUNS="last:2:finetune:classify"': "is it better than old?"}
    words = pipeline_words(["compare", "RUNS=last:2:finetune:classify"]) or []
    assert list(compose(words[0], words[1:]).runs) == ["last:2:finetune:classify"]
