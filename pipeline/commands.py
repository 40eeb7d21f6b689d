"""The commands: which function runs each, by the word that the user types, and what it gives back."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

from pipeline.config.plain import Config


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The outcome of a stage, printed as one JSON object with `--json`.

    Args:
        output: what standard output gets without `--json`.
        is_said: whether standard error has said `output` already: a terminal, which shows both, gets it once.
    """

    stage: str
    run_id: str | None = None
    bundle: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    output: list[str] | None = None
    is_said: bool = False

    def to_json(self) -> str:
        """One line."""
        facts = {key: value for key, value in asdict(self).items() if key != "is_said"}
        return json.dumps({key: value for key, value in facts.items() if key != "output" or value})


#: Word -> module and function; a module is imported when its stage runs, since some are heavy.
STAGES = {
    "tokenizer": "pipeline.stages.tokenizer:train_tokenizer",
    "pretrain": "pipeline.stages.pretrain.stage:pretrain",
    "finetune": "pipeline.stages.finetune.stage:finetune",
    "evaluate": "pipeline.stages.evaluate:evaluate",
    "evaluate-lm": "pipeline.stages.evaluate_lm:evaluate_language_model",
    "predict": "pipeline.stages.predict:predict",
    "try": "pipeline.stages.ask:ask",
    "compare": "pipeline.stages.compare:compare",
    "generate": "pipeline.stages.generate:generate_text",
    "show-data": "pipeline.stages.show_data:show_data",
    "lineage": "pipeline.stages.lineage:lineage",
    "report": "pipeline.stages.report:report",
    "explain": "pipeline.stages.explain:explain",
    "import": "pipeline.stages.importing:import_weights",
    "estimate": "pipeline.stages.estimate:estimate",
    "export": "pipeline.stages.export:export",
    "reproduce": "pipeline.stages.reproduce:reproduce",
    "register": "pipeline.stages.registry:register",
    "promote": "pipeline.stages.registry:promote",
    "doctor": "pipeline.stages.doctor:doctor",
    "sync": "pipeline.stages.mlflow:send_missed",
    "serve": "pipeline.stages.serve:serve",
    "demo": "pipeline.stages.demo:demo",
    "ui": "pipeline.stages.mlflow:serve",
}

#: Those that are given what the user typed as it is: they pass it on to other stages, each its own part.
ORCHESTRATORS = {
    "pipeline": "pipeline.plan.run:run_pipeline",
    "why": "pipeline.plan.why:explain",
    "sweep": "pipeline.sweep.command:sweep",
}


def find_stage(word: str) -> Callable[[Config], StageResult]:
    """The function of a stage."""
    return _load(STAGES[word])  # type: ignore[no-any-return]


def find_orchestrator(word: str) -> Callable[[Sequence[str]], StageResult]:
    """The function of a stage that passes the user's words on to other stages."""
    return _load(ORCHESTRATORS[word])  # type: ignore[no-any-return]


def _load(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)
