"""Write text with a bundle."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from pipeline import build, report
from pipeline.bundle import load_bundle
from pipeline.errors import ConfigError
from pipeline.runs import find_bundle
from pipeline.stages.result import StageResult
from pipeline.tasks.base import GAP


def generate_text(config: DictConfig) -> StageResult:
    """Go on from the prompts, or fill their gaps, and print what was written on standard output."""
    folder = find_bundle(config.bundle, Path(config.runs_dir))
    bundle = load_bundle(folder)
    report.say("Bundle", report.short(folder))
    report.say("Model", report.describe_model(bundle.model))
    prompts = list(config.prompts or [])
    if bundle.task.fills_gaps and not any(GAP in prompt for prompt in prompts):
        raise ConfigError(
            f"this bundle fills gaps, and no prompt has one: {prompts}",
            f"a text with {GAP} in it",
            f'for example: make generate PROMPT="The {GAP} is in the garden."',
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    samples = bundle.task.samples(
        bundle.model.to(device),
        bundle.tokenizer,
        prompts=prompts,
        texts=[],
        options=build.construct(config.sampling, seed=config.seed),
    )
    texts = [sample.output if bundle.task.fills_gaps else sample.given + sample.output for sample in samples]
    return StageResult(stage="generate", bundle=str(folder), output=texts)
