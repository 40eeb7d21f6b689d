"""Forward Lightning's `self.log` to a run."""

from argparse import Namespace
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from pipeline.tracking.run import Run


class TrackingLogger(Logger):
    """Passes metrics on to a run, at the optimizer step that they are given with.

    `LitModule` and the callbacks give the steps done, on which the whole run counts. Hyperparameters
    are the run's own affair and are not taken from Lightning.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    @property
    def name(self) -> str:
        """The kind of the logger; Lightning uses it in paths when it saves by itself, which we do not do."""
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
        """Record numbers at a step."""
        self._run.log_metrics(metrics, step or 0)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run holds the whole configuration already."""
