"""The stages, by the word that the user types."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from pipeline.config.plain import Config
from pipeline.stages.result import StageResult

__all__ = ["OVER_STAGES", "STAGES", "StageResult", "find_over_stages", "find_stage"]

#: Word -> module and function; a module is imported when its stage runs, since some are heavy.
STAGES = {
    "tokenizer": "pipeline.stages.tokenizer:train_tokenizer",
    "pretrain": "pipeline.stages.pretrain:pretrain",
    "finetune": "pipeline.stages.finetune.stage:finetune",
    "evaluate": "pipeline.stages.evaluate:evaluate",
    "predict": "pipeline.stages.predict:predict",
    "try": "pipeline.stages.ask:ask",
    "compare": "pipeline.stages.compare:compare",
    "generate": "pipeline.stages.generate:generate_text",
    "show-data": "pipeline.stages.show_data:show_data",
    "lineage": "pipeline.stages.lineage:lineage",
    "export": "pipeline.stages.export:export",
    "reproduce": "pipeline.stages.reproduce:reproduce",
    "register": "pipeline.stages.registry:register",
    "promote": "pipeline.stages.registry:promote",
    "doctor": "pipeline.stages.doctor:doctor",
    "sync": "pipeline.stages.mlflow:send_missed",
    "ui": "pipeline.stages.mlflow:serve",
}

#: Those that are given what the user typed as it is: they pass it on to other stages, each its own part.
OVER_STAGES = {
    "pipeline": "pipeline.plan.run:run_pipeline",
    "why": "pipeline.plan.why:explain",
    "sweep": "pipeline.sweep.command:sweep",
}


def find_stage(word: str) -> Callable[[Config], StageResult]:
    """The function of a stage."""
    return _load(STAGES[word])  # type: ignore[no-any-return]


def find_over_stages(word: str) -> Callable[[Sequence[str]], StageResult]:
    """The function of a stage that passes the user's words on to other stages."""
    return _load(OVER_STAGES[word])  # type: ignore[no-any-return]


def _load(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)
