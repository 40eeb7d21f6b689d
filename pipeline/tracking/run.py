"""The interface by which a stage records itself, and the run that records nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
DatasetContext = Literal["train", "validation", "test", "tokenizer"]


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """A corpus as a run's input, under our own digest (MLflow's reads only 10,000 rows).

    Args:
        name: The corpus's name.
        digest: Its fingerprint; the first 36 characters are shown and compared.
        source: Where it came from: a path or an address.
        columns: Column name to type.
        profile: Plain facts: rows, bytes, tokens, ...
    """

    name: str
    digest: str
    source: str
    columns: Mapping[str, str] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunCard:
    """The identity of a run at its start.

    Args:
        stage: The stage's word: pretrain, evaluate, ...
        name: A name that tells it from its siblings.
        config: The resolved configuration, plain containers.
        seed: The seed, if the stage has one.
        tags: Plain tags: pipeline_id, sweep_id, parent_run, ...
        is_report: Whether it trains no model: such runs stand in a table of their own, apart from trainings.
    """

    stage: str
    name: str
    config: Mapping[str, Any]
    seed: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    is_report: bool = False


class Run:
    """A run that is not tracked: every call does nothing. `SpooledRun` is the one that is."""

    @property
    def run_id(self) -> str | None:
        """MLflow's id; before the store was reached, the run's own; None when not tracked."""
        return None

    @property
    def url(self) -> str | None:
        """The address of the run's page, once the store knows it."""
        return None

    @property
    def provenance(self) -> Mapping[str, str]:
        """Code, versions, machine and command of this run, secrets redacted."""
        return {}

    def wait_until_known(self, timeout_s: float = 5.0) -> bool:
        """Wait until the store has given the run its id; False when it did not in time."""
        del timeout_s
        return False

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers at an optimizer step."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; the last value stays."""

    def log_dataset(self, dataset: DatasetRecord, context: DatasetContext) -> None:
        """Record a corpus as an input of the run."""

    def log_text(self, text: str, artifact: str) -> None:
        """Record a text as a file of the run, for example `samples/step-000500.md`."""

    def log_file(self, path: Path, artifact: str) -> None:
        """Record a copy of a file as it is now, under the name `artifact`."""

    def log_bundle(
        self,
        folder: Path,
        *,
        name: str,
        step: int,
        metrics: Mapping[str, float],
    ) -> None:
        """Record a finished bundle as a model that this run made, with its metrics.

        Each metric is recorded with the data set, logged before, that its name says: `val/`, `test/` or
        `train/`; `test/` with the validation rows where the run has no test rows.
        """

    def use_bundle(self, folder: Path) -> None:
        """Record a bundle as a model that this run starts from."""

    def describe(self, note: str) -> None:
        """Put Markdown at the beginning of the description that the run has at its end."""

    def end(self, status: EndStatus = "FINISHED", results: Mapping[str, float] | None = None) -> None:
        """End the run with its true status and `results` (`describe.final_values`). May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the run by what happened: FINISHED, FAILED by an error, KILLED by Ctrl-C or SIGTERM."""
        if kind is None or (isinstance(error, SystemExit) and not error.code):
            self.end("FINISHED")
        else:
            self.end("FAILED" if issubclass(kind, Exception) else "KILLED")
