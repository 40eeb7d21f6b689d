"""The stages, by the word that the user types."""

from collections.abc import Callable
from importlib import import_module

from omegaconf import DictConfig

from pipeline.stages.result import StageResult

__all__ = ["STAGES", "StageResult", "find_stage"]

#: Word -> module and function; a module is imported when its stage runs, since some are heavy.
STAGES = {
    "tokenizer": "pipeline.stages.tokenizer:train_tokenizer",
    "pretrain": "pipeline.stages.pretrain:pretrain",
    "finetune": "pipeline.stages.finetune:finetune",
    "evaluate": "pipeline.stages.evaluate:evaluate",
    "predict": "pipeline.stages.predict:predict",
    "try": "pipeline.stages.ask:ask",
    "compare": "pipeline.stages.compare:compare",
    "generate": "pipeline.stages.generate:generate_text",
    "show-data": "pipeline.stages.show_data:show_data",
    "lineage": "pipeline.stages.lineage:lineage",
    "reproduce": "pipeline.stages.reproduce:reproduce",
    "register": "pipeline.stages.registry:register",
    "promote": "pipeline.stages.registry:promote",
    "doctor": "pipeline.stages.doctor:doctor",
    "sync": "pipeline.stages.mlflow:send_missed",
    "ui": "pipeline.stages.mlflow:serve",
}


def find_stage(word: str) -> Callable[[DictConfig], StageResult]:
    """The function of a stage."""
    module, _, function = STAGES[word].partition(":")
    return getattr(import_module(module), function)  # type: ignore[no-any-return]
