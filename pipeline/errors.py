"""Errors of the pipeline: a hierarchy below `UserError`, which is printed as two lines, `error:` and `hint:`.

UserError                 (datamodules.errors)
├── DataError, TokenizerError, CacheError
└── PipelineError
    ├── ConfigError       a key, a type or a value of the configuration
    ├── RunError          a run cannot start, continue or finish
    │   ├── CheckpointError
    │   └── RunInterrupted  a signal ended training cleanly
    ├── BundleError       a bundle is missing, unfinished or unsuitable
    ├── InteropError      a model of another library cannot be read or written
    └── TrackingError     the MLflow store cannot be used at all

Stopped                   a signal arrived outside training; not an error, and caught only by `main`
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
    """A stage cannot do what was requested."""


class ConfigError(PipelineError):
    """A key, a type or a value of the configuration is wrong."""


class RunError(PipelineError):
    """A run cannot start, continue or finish."""


class RunInterrupted(RunError):  # noqa: N818 - an interruption is not an error
    """A signal ended the run; nothing is damaged, and the run can be resumed."""

    def __init__(self, problem: str, remedy: str, signal_number: int) -> None:
        super().__init__(problem, "", remedy)
        self.args = (problem, remedy, signal_number)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """Exit code that shells expect from a process ended by this signal."""
        return 128 + self.signal_number


class CheckpointError(RunError):
    """A checkpoint cannot be written, or is damaged."""


class BundleError(PipelineError):
    """A bundle is missing, unfinished, or unsuitable for its use."""


class InteropError(PipelineError):
    """A model of another library cannot be read, or a model cannot be written in that library's format."""


class TrackingError(PipelineError):
    """The MLflow store cannot be used."""


class Stopped(BaseException):
    """A signal arrived. Not a KeyboardInterrupt, which Lightning turns into exit code 1.

    Args:
        signal_number: one of `pipeline.signals.SIGNALS`.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        #: What the user can do, if anything.
        self.hint: str | None = None
        self.by = name_of(signal_number)
        #: Exit code that shells expect from a process ended by this signal.
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        ending = f"\nhint: {self.hint}" if self.hint else "; no incomplete files were left"
        return f"stopped by {self.by}{ending}"
