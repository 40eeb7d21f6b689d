"""The interface through which a stage records its run, and the implementation that does nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
DatasetContext = Literal["train", "validation", "test", "tokenizer"]


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """A corpus as an input of a run, with Prelude's own digest (MLflow's covers only 10,000 rows).

    Args:
        name: The name of the corpus.
        digest: Its fingerprint; MLflow shows and compares the first 36 characters.
        source: Its path or URL.
        columns: Column name -> type.
        profile: Further facts, such as the number of rows, bytes and tokens.
    """

    name: str
    digest: str
    source: str
    columns: Mapping[str, str] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunCard:
    """The facts about a run that are known at its start.

    Args:
        stage: The name of the stage, such as pretrain.
        name: The name of the run.
        config: The resolved configuration, in plain containers.
        seed: The seed, if the stage has one.
        tags: Tags, such as pipeline_id, sweep_id and parent_run.
        is_report: Whether the run does not train; such runs are in an experiment of their own.
    """

    stage: str
    name: str
    config: Mapping[str, Any]
    seed: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    is_report: bool = False


class Run:
    """A run that is not tracked: every call does nothing. Tracked runs are of the subclass `SpooledRun`."""

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, or a local id until the store is reached; None if not tracked."""
        return None

    @property
    def url(self) -> str | None:
        """The URL of the run's page in MLflow, once the store knows the run."""
        return None

    @property
    def provenance(self) -> Mapping[str, str]:
        """Code, versions, machine and command of this run, with secrets redacted."""
        return {}

    def wait_until_known(self, timeout_s: float = 5.0) -> bool:
        """Wait until the run has an id in the store; return False if it has none in time."""
        del timeout_s
        return False

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics at an optimizer step."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; a later value replaces an earlier one."""

    def log_dataset(self, dataset: DatasetRecord, context: DatasetContext) -> None:
        """Record a corpus as an input of the run."""

    def log_text(self, text: str, artifact: str) -> None:
        """Record a text as a file of the run, for example `samples/step-000500.md`."""

    def log_file(self, path: Path, artifact: str) -> None:
        """Record a copy of a file in its current state, under the name `artifact`."""

    def log_bundle(
        self,
        folder: Path,
        *,
        name: str,
        step: int,
        metrics: Mapping[str, float],
    ) -> None:
        """Record a finished bundle as a model that this run made, with its metrics.

        Each metric is recorded with the previously logged data set that its prefix names: `val/`, `test/` or
        `train/`; without test rows, `test/` refers to the validation rows.
        """

    def use_bundle(self, folder: Path) -> None:
        """Record a bundle as a model that this run starts from."""

    def describe(self, note: str) -> None:
        """Set a note in Markdown, which becomes the beginning of the final description of the run."""

    def end(self, status: EndStatus = "FINISHED", results: Mapping[str, float] | None = None) -> None:
        """End the run with a status and results (`describe.final_values`). A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the run as FINISHED, as FAILED after an error, or as KILLED by Ctrl-C or SIGTERM."""
        if kind is None or (isinstance(error, SystemExit) and not error.code):
            self.end("FINISHED")
        else:
            self.end("FAILED" if issubclass(kind, Exception) else "KILLED")
