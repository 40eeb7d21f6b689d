"""The options of a sweep."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.errors import ConfigError

Count = Annotated[int, Field(ge=1)]

#: Default number of trials if the values are not a finite grid.
DEFAULT_TRIALS = 20
#: Default number of concurrent trials on a cluster, whose queue decides how many of them run.
CLUSTER_PARALLEL = 8


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """The resources of each trial on the cluster, with the names of Hydra's submitit launcher.

    Args:
        timeout_min: time limit of a trial in minutes.
        cpus_per_task: cores of a trial.
        gpus_per_node: GPUs of a trial.
        mem_gb: memory of a trial, in GB.
        partition: the queue.
        signal_delay_s: seconds before the time limit at which a job is told to save.
        max_num_timeout: how often a trial that reached its time limit is requeued and resumed.
        setup: commands that the job runs first.
        additional_parameters: any other option of `sbatch`.
    """

    timeout_min: Count = 60
    cpus_per_task: Count | None = None
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    partition: str | None = None
    qos: str | None = None
    comment: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    cpus_per_gpu: Count | None = None
    gpus_per_task: Annotated[int, Field(ge=0)] | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    account: str | None = None
    signal_delay_s: Count = 120
    max_num_timeout: Annotated[int, Field(ge=0)] = 0
    setup: list[str] | None = None
    additional_parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Which trials to run, the metric that ranks them, and how they are run.

    Args:
        stage: the `make` target to sweep: pretrain, pretrain-masked_lm, finetune-classify, ...
        sampler: grid runs every combination, random draws them, optuna (TPE) learns from finished trials.
        trials: number of trials; null: every combination of a grid, else 20.
        seed: the seed of random and optuna.
        metric: the metric that ranks trials, by its name in MLflow; null: the one that selects weights.
        direction: whether to minimize or maximize; null: the metric's own direction.
        prune: stop trials that are worse at a validation than the median; null: only with sampler=optuna.
        prune_after: number of trials that must end before one is pruned.
        parallel: concurrent trials; null: 1 on this machine, 8 on a cluster.
        launcher: local runs processes on this machine, slurm submits jobs to a cluster, and submitit_local
            tests submitit on this machine.
    """

    stage: str = "pretrain"
    sampler: Literal["grid", "random", "optuna"] = "grid"
    trials: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 1
    metric: str | None = None
    direction: Literal["minimize", "maximize"] | None = None
    prune: bool | None = None
    prune_after: Count = 5
    parallel: Count | None = None
    launcher: Literal["local", "slurm", "submitit_local"] = "local"
    slurm: SlurmOptions = field(default_factory=SlurmOptions)

    def __post_init__(self) -> None:
        if self.sampler == "grid" and self.trials is not None:
            raise ConfigError(
                "sweep.trials is given with sweep.sampler=grid",
                "no number of trials, since a grid runs every combination",
                "leave out sweep.trials, or choose sweep.sampler=random or optuna",
            )

    @property
    def n_parallel(self) -> int:
        """The number of concurrent trials."""
        return self.parallel or (1 if self.launcher == "local" else CLUSTER_PARALLEL)

    @property
    def prunes(self) -> bool:
        """Whether bad trials are stopped early."""
        return self.sampler == "optuna" if self.prune is None else self.prune
