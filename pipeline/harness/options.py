"""The options of `make evaluate-lm`, other than the bundle and the tasks."""

from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class HarnessOptions:
    """How EleutherAI's lm-evaluation-harness is run.

    Args:
        folder: a folder with your own tasks: a yaml file each in the harness's format, which may name Python
            functions next to it. These are executed, so only use folders that you trust.
        limit: the maximum number of rows of each task; None: all.
        n_shots: the number of solved examples before each row; None: as set by the task.

    Raises:
        ConfigError: a number is too small.
    """

    folder: str | None = None
    limit: int | None = None
    n_shots: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit is {self.limit}", "1 or more", "leave out limit to evaluate all rows")
        if self.n_shots is not None and self.n_shots < 0:
            raise ConfigError(f"n_shots is {self.n_shots}", "0 or more", "use 0 for no examples")
