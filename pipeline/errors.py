"""The errors of the pipeline: a tree under `UserError`, which is printed as two lines, `error:` and `hint:`.

UserError                 (datamodules.errors)
├── DataError, TokenizerError, CacheError
└── PipelineError
    ├── ConfigError       a key, a type or a value of the configuration
    ├── RunError          a run cannot start, go on or finish
    │   ├── CheckpointError
    │   └── RunInterrupted  a signal ended training in order
    ├── BundleError       a trained thing is missing, unfinished or does not fit
    ├── InteropError      a model of another library cannot be read or written
    └── TrackingError     the MLflow store cannot be used at all

Stopped                   a signal outside training: no error, and nobody's to catch but `main`'s
"""

from datamodules.errors import CacheError, DataError, TokenizerError, UserError
from pipeline.signals import name_of

__all__ = [
    "BundleError",
    "CacheError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "InteropError",
    "PipelineError",
    "RunError",
    "RunInterrupted",
    "Stopped",
    "TokenizerError",
    "TrackingError",
    "UserError",
]


class PipelineError(UserError):
    """A stage cannot do what it was asked to do."""


class ConfigError(PipelineError):
    """A key, a type or a value of the configuration is wrong."""


class RunError(PipelineError):
    """A run cannot start, go on or finish."""


class RunInterrupted(RunError):  # noqa: N818 - to be told to stop is no error
    """A signal ended the run; nothing is broken, and it can be resumed."""

    def __init__(self, problem: str, remedy: str, signal_number: int) -> None:
        super().__init__(problem, "", remedy)
        self.args = (problem, remedy, signal_number)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that ended by this signal."""
        return 128 + self.signal_number


class CheckpointError(RunError):
    """A checkpoint cannot be written, or is damaged."""


class BundleError(PipelineError):
    """A trained thing is missing, unfinished, or does not fit its use."""


class InteropError(PipelineError):
    """A model of another library cannot be read, or ours cannot be written in its form."""


class TrackingError(PipelineError):
    """The MLflow store cannot be used."""


class Stopped(BaseException):
    """A signal came. Not a KeyboardInterrupt, which Lightning turns into exit code 1.

    Args:
        signal_number: one of `pipeline.signals.SIGNALS`.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        #: What to do, where there is anything to do.
        self.hint: str | None = None
        self.by = name_of(signal_number)
        #: What a shell expects of a process that ended by this signal.
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        ending = f"\nhint: {self.hint}" if self.hint else "; no incomplete files were left"
        return f"stopped by {self.by}{ending}"
