"""What a user can set about a sweep."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.errors import ConfigError

Count = Annotated[int, Field(ge=1)]

#: Trials of a sweep whose values cannot be counted.
DEFAULT_TRIALS = 20
#: Trials at once on a cluster, whose queue decides how many of them really run.
CLUSTER_PARALLEL = 8


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """What each trial asks of the cluster, by the names of Hydra's submitit launcher.

    Args:
        timeout_min: minutes that a trial may take.
        cpus_per_task: cores of a trial.
        gpus_per_node: GPUs of a trial.
        mem_gb: memory of a trial, in GB.
        partition: the queue.
        signal_delay_s: how long before its end a job is told to save.
        max_num_timeout: how often a trial that ran out of time is queued again, to go on where it was.
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
    """Which trials there are, what decides between them, and how they are run.

    Args:
        stage: what is swept, as `make` has it: pretrain, pretrain-masked_lm, finetune-classify, ...
        sampler: grid takes every combination, random draws them, optuna (TPE) learns from the trials so far.
        trials: how many; null: every combination of a grid, else 20.
        seed: of random and optuna.
        metric: what decides, by its name in MLflow; null: what chooses the best weights of the stage.
        direction: null: the metric's own.
        prune: stop trials that are worse at a validation than the median; null: with sampler=optuna.
        prune_after: so many trials end before one is pruned.
        parallel: trials at once; null: 1 on this machine, 8 on a cluster.
        launcher: local runs processes here, slurm hands over to a cluster, submitit_local tries that here.
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
                "every combination of a grid",
                "leave it out, or choose sweep.sampler=random or optuna",
            )

    @property
    def n_parallel(self) -> int:
        """Trials at once."""
        return self.parallel or (1 if self.launcher == "local" else CLUSTER_PARALLEL)

    @property
    def prunes(self) -> bool:
        """Whether bad trials are stopped early."""
        return self.sampler == "optuna" if self.prune is None else self.prune
