"""Generate text with a pretrained model."""

from modules.generation import SamplingOptions
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.runs.asking import generate
from pipeline.runs.finetuned import load_asked


def generate_text(config: Config) -> StageResult:
    """Continue the prompts, or fill their gaps, and print the texts on standard output."""
    bundle = load_asked(config)
    options = construct(config.sampling, SamplingOptions, seed=config.seed)
    texts = generate(bundle, config.prompts or [], options)
    return StageResult(stage="generate", bundle=str(bundle.folder), output=texts)
