"""A bundle asked from Python: rows that stand in memory, and texts to go on from."""

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
from pipeline.runs.finetuned import with_trained_names
from pipeline.runs.start import check_has_head
from pipeline.tasks.base import GAP
from pipeline.tasks.finetuning import FinetuneTask, Prediction, Row


def predict(bundle: Bundle, rows: Sequence[Row], *, batch_size: int) -> list[Prediction]:
    """Answer rows with a fine-tuned model; columns that the task does not read are not looked at.

    Raises:
        BundleError: the model was not fine-tuned.
        DataError: a row lacks a column, or has something else in it than the task reads.
    """
    if not isinstance(bundle.task, FinetuneTask):
        raise BundleError(
            f"{bundle.folder} is a pretrained model",
            "a fine-tuned one, which answers rows",
            "call bundle.generate(prompt), or run `make finetune-TASK` first",
        )
    read = given_rows(rows, with_trained_names(bundle.task.input_columns, bundle))
    return bundle.task.predict(bundle.model, bundle.tokenizer, read, batch_size=batch_size)


def generate(bundle: Bundle, prompts: Sequence[str], options: SamplingOptions) -> list[str]:
    """Go on from the prompts, or fill the gaps in them, with a pretrained model: the whole texts.

    Raises:
        BundleError: the model was fine-tuned, or was imported without a head.
        ConfigError: the model fills gaps, and no prompt has one.
    """
    task = bundle.task
    if isinstance(task, FinetuneTask):
        raise BundleError(
            f"{bundle.folder} was fine-tuned",
            "a pretrained model, which writes texts",
            "ask this one with bundle.predict(rows) or `make try-TASK`",
        )
    check_has_head(bundle)
    if strange := next((prompt for prompt in prompts if not isinstance(prompt, str)), None):
        raise ConfigError(f"the prompt {strange!r} is no text", "a string", "call once for each prompt")
    if task.fills_gaps and not any(GAP in prompt for prompt in prompts):
        raise ConfigError(
            f"{bundle.folder} fills gaps, and {list(prompts) or 'the empty prompt'} has none",
            f"a text with {GAP} in it, or a bundle that goes on from a text",
            f'for example: make generate PROMPT="The {GAP} is in the garden.", '
            "or run `make pretrain`, whose bundle goes on from a text",
        )
    samples = task.samples(bundle.model, bundle.tokenizer, prompts=prompts, texts=[], options=options)
    return [sample.output if task.fills_gaps else sample.given + sample.output for sample in samples]


def sampling_options(given: Mapping[str, Any]) -> SamplingOptions:
    """The options that `make generate` has, with those that are given.

    Raises:
        ConfigError: there is no such option, or it does not fit.
    """
    node = {**read_yaml(CONFIGS / "sampling" / "default.yaml"), **given}
    check_nodes(node, "sampling")
    return construct(node, SamplingOptions)
