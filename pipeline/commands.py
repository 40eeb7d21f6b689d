"""The table of commands: the function that runs each, by the word that the user types, and its result."""

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
        output: what is printed on standard output without `--json`.
        is_said: whether `output` was already printed on standard error; a terminal, which shows both streams,
            then gets it only once.
    """

    stage: str
    run_id: str | None = None
    bundle: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    output: list[str] | None = None
    is_said: bool = False

    def to_json(self) -> str:
        """Return the result as JSON on one line."""
        facts = {key: value for key, value in asdict(self).items() if key != "is_said"}
        return json.dumps({key: value for key, value in facts.items() if key != "output" or value})


#: Command -> module and function. A module is imported when its stage runs, since some are slow to import.
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

#: Commands that run other stages; they receive the user's overrides and pass each stage its part.
ORCHESTRATORS = {
    "pipeline": "pipeline.plan.run:run_pipeline",
    "why": "pipeline.plan.why:explain",
    "sweep": "pipeline.sweep.command:sweep",
}


def find_stage(word: str) -> Callable[[Config], StageResult]:
    """Return the function of a stage."""
    return _load(STAGES[word])  # type: ignore[no-any-return]


def find_orchestrator(word: str) -> Callable[[Sequence[str]], StageResult]:
    """Return the function of a command that runs other stages."""
    return _load(ORCHESTRATORS[word])  # type: ignore[no-any-return]


def _load(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)
