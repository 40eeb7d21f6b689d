"""Use a bundle from Python: predict rows in memory, and generate text."""

from collections.abc import Mapping, Sequence
from typing import Any

from datamodules.corpus import given_rows
from modules.generation import SamplingOptions
from pipeline.config.check import check_nodes
from pipeline.config.construct import construct
from pipeline.config.groups import CONFIGS
from pipeline.errors import BundleError, ConfigError
from pipeline.files import read_yaml
from pipeline.runs.bundle import Bundle
from pipeline.runs.finetuned import as_dialogue, with_trained_names
from pipeline.runs.start import check_has_head
from pipeline.tasks.base import GAP
from pipeline.tasks.finetuning import FinetuneTask, Prediction, Row


def predict(bundle: Bundle, rows: Sequence[Row], *, batch_size: int) -> list[Prediction]:
    """Predict rows with a fine-tuned model, or the replies of an imported language model with ChatML.

    Columns that the task does not read are ignored.

    Raises:
        BundleError: if the model was not fine-tuned, or was imported without a head.
        DataError: if a row lacks a column, or a column has the wrong type.
    """
    check_has_head(bundle)
    bundle = as_dialogue(bundle)
    if not isinstance(bundle.task, FinetuneTask):
        raise BundleError(
            f"{bundle.folder} is a pretrained model",
            "a fine-tuned model, which predicts rows",
            "call bundle.generate(prompt), or run `make finetune-TASK` first",
        )
    read = given_rows(rows, with_trained_names(bundle.task.input_columns, bundle))
    return bundle.task.predict(bundle.model, bundle.tokenizer, read, batch_size=batch_size)


def generate(bundle: Bundle, prompts: Sequence[str], options: SamplingOptions) -> list[str]:
    """Continue the prompts, or fill the gaps in them, with a pretrained model; return the complete texts.

    Raises:
        BundleError: if the model was fine-tuned, or was imported without a head.
        ConfigError: if the model fills gaps, but no prompt has one.
    """
    task = bundle.task
    if isinstance(task, FinetuneTask):
        raise BundleError(
            f"{bundle.folder} was fine-tuned",
            "a pretrained model, which generates text",
            "use this one with bundle.predict(rows) or `make try-TASK`",
        )
    check_has_head(bundle)
    if strange := next((prompt for prompt in prompts if not isinstance(prompt, str)), None):
        raise ConfigError(
            f"the prompt {strange!r} is not a string", "a string", "call generate once for each prompt"
        )
    if task.fills_gaps and not any(GAP in prompt for prompt in prompts):
        raise ConfigError(
            f"{bundle.folder} fills gaps, but {list(prompts) or 'the empty prompt'} has none",
            f"a text with {GAP} in it, or a bundle that continues a text",
            f'run for example `make generate PROMPT="The {GAP} is in the garden."`, '
            "or `make pretrain`, whose bundle continues a text",
        )
    samples = task.samples(bundle.model, bundle.tokenizer, prompts=prompts, texts=[], options=options)
    return [sample.output if task.fills_gaps else sample.input + sample.output for sample in samples]


def sampling_options(given: Mapping[str, Any]) -> SamplingOptions:
    """Return the default sampling options of `make generate`, overridden by the given ones.

    Raises:
        ConfigError: if there is no such option, or its value is invalid.
    """
    node = {**read_yaml(CONFIGS / "sampling" / "default.yaml"), **given}
    check_nodes(node, "sampling")
    return construct(node, SamplingOptions)
