"""A Lightning logger that forwards metrics to a tracked run."""

from argparse import Namespace
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from pipeline.tracking.run import Run


class TrackingLogger(Logger):
    """Forwards metrics to a run, at the optimizer step with which they are logged.

    `LitModule` and the callbacks log with the number of completed optimizer steps. Hyperparameters are
    recorded by the run itself and are not taken from Lightning.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    @property
    def name(self) -> str:
        """The kind of the logger; Lightning uses it only in paths of its own checkpoints."""
        return "tracking"

    @property
    def version(self) -> str:
        """The run's id."""
        return self._run.run_id or "untracked"

    @property
    def experiment(self) -> Run:
        """The run."""
        return self._run

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Record metrics at a step."""
        self._run.log_metrics(metrics, step or 0)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run already has the whole configuration."""
