"""What a stage gives back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


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
