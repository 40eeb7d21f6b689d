"""What a stage gives back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The outcome of a stage, printed as one JSON object with `--json`."""

    stage: str
    run_id: str | None = None
    bundle: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    output: list[str] | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps({key: value for key, value in asdict(self).items() if key != "output" or value})
