"""The errors of the pipeline: a tree under `UserError`, whose three parts make one line for the user.

UserError                 (datamodules.errors)
├── DataError, TokenizerError, CacheError
└── PipelineError
    ├── ConfigError       a key, a type or a value of the configuration
    ├── RunError          a run cannot start, go on or finish
    │   └── CheckpointError
    ├── BundleError       a trained thing is missing, unfinished or does not fit
    └── TrackingError     the MLflow store cannot be used at all
"""

from datamodules.errors import CacheError, DataError, TokenizerError, UserError

__all__ = [
    "BundleError",
    "CacheError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "PipelineError",
    "RunError",
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


class CheckpointError(RunError):
    """A checkpoint cannot be written, or is damaged."""


class BundleError(PipelineError):
    """A trained thing is missing, unfinished, or does not fit its use."""


class TrackingError(PipelineError):
    """The MLflow store cannot be used."""
