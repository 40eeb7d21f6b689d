"""Write text with a bundle."""

from modules.generation import SamplingOptions
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.errors import ConfigError
from pipeline.runs.finetuned import load_asked
from pipeline.tasks.base import GAP
from pipeline.tasks.finetuning import FinetuneTask


def generate_text(config: Config) -> StageResult:
    """Go on from the prompts, or fill their gaps, and print what was written on standard output."""
    bundle = load_asked(config)
    if isinstance(bundle.task, FinetuneTask):
        raise ConfigError(
            f"{bundle.folder} was fine-tuned", "a pretrained model", "use `make try-TASK` to ask this one"
        )
    prompts = list(config.prompts or [])
    if bundle.task.fills_gaps and not any(GAP in prompt for prompt in prompts):
        raise ConfigError(
            f"{report.short(bundle.folder)} fills gaps, and {prompts or 'the empty prompt'} has none",
            f"a text with {GAP} in it, or a bundle that goes on from a text",
            f'for example: make generate PROMPT="The {GAP} is in the garden.", '
            "or run `make pretrain`, whose bundle goes on from a text",
        )
    samples = bundle.task.samples(
        bundle.model,
        bundle.tokenizer,
        prompts=prompts,
        texts=[],
        options=construct(config.sampling, SamplingOptions, seed=config.seed),
    )
    texts = [sample.output if bundle.task.fills_gaps else sample.given + sample.output for sample in samples]
    return StageResult(stage="generate", bundle=str(bundle.folder), output=texts)
