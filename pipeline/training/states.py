"""The states of a run: composed, started, prepared, trained. Each is built once, from the previous one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from datamodules.corpus import Corpus
from datamodules.tokenizer import Tokenizer
from modules.model import Model
from pipeline import report
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.config.recorded import with_defaults, without_training
from pipeline.machine.choice import describe_machine, with_chosen
from pipeline.machine.options import TrainerOptions
from pipeline.runs.bundle import Bundle
from pipeline.runs.folders import RunFolder, open_run
from pipeline.runs.tags import pipeline_tag
from pipeline.tracking import Run, RunCard, TrackingOptions, start_run
from pipeline.training.callbacks.trend import LossTrend
from pipeline.training.checkpoint import Checkpoints


@dataclass(frozen=True, kw_only=True)
class Composed:
    """What a run is to be, before it has a folder.

    Args:
        config: all of the run's configuration, but for what is left to the machine (`auto`).
        label: begins the name of a run that is given none.
        inputs: what the run is made from.
        bundle: the bundle that it reads; None: none.
        is_report: whether the run measures something and trains nothing.
    """

    config: Config
    label: str
    inputs: Mapping[str, str]
    bundle: Bundle | None
    is_report: bool = False


@dataclass(frozen=True, kw_only=True)
class Started:
    """A run with its folder and its record.

    Args:
        config: the run's configuration, with what was chosen for the machine; it does not change any more.
        options: those of the trainer in it.
        bundle: the bundle that it reads; None: none.
        run: its folder, locked.
        tracked: its record.
    """

    config: Config
    options: TrainerOptions
    bundle: Bundle | None
    run: RunFolder
    tracked: Run


@dataclass(frozen=True, kw_only=True)
class Prepared(Started):
    """A started run with all that it trains: each stage adds its rows.

    Args:
        options: those of `Started`, with the steps that `max_epochs` means for so many rows.
        corpus: what the rows were read from.
        tokenizer: of the bundle, or trained for the run.
        model: trained in place.
        n_rows: rows, or windows of rows, in an epoch.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    model: Model
    n_rows: int


AnyPrepared = TypeVar("AnyPrepared", bound=Prepared)


@dataclass(frozen=True, kw_only=True)
class Trained(Generic[AnyPrepared]):
    """A prepared run after training; its model has the best weights.

    Args:
        prepared: what was trained.
        checkpoints: where the best and the last weights are, and their metrics.
        trend: the validation losses over the run.
        pace: how long it took and how fast it was, for people.
        elapsed_s: how long it took.
        tokens_seen: how many tokens were read.
    """

    prepared: AnyPrepared
    checkpoints: Checkpoints
    trend: LossTrend
    pace: str
    elapsed_s: float
    tokens_seen: int


@contextmanager
def start(composed: Composed) -> Iterator[Started]:
    """Open the run's folder and its record; both are closed however the run ends.

    Raises:
        RunError: the folder cannot be written, is in use, or there is nothing to resume.
        TrackingError: the address of the store can never work.
    """
    with open_run(composed.config, label=composed.label, inputs=composed.inputs) as run:
        config = with_chosen(composed.config, run.record.chosen)
        with record(config, run, is_report=composed.is_report) as tracked:
            machine = describe_machine(config, run.record.chosen)
            report.say("Run", f"{report.short(run.path)}{' (resumed)' if run.resumed else ''}, {machine}")
            if composed.bundle is not None:
                tracked.use_bundle(composed.bundle.folder)
            yield Started(
                config=config,
                options=construct(config.trainer, TrainerOptions),
                bundle=composed.bundle,
                run=run,
                tracked=tracked,
            )


def record(config: Config, run: RunFolder, *, is_report: bool) -> Run:
    """Begin to record a run in MLflow, or go on with its record."""
    card = RunCard(
        stage=config.stage.name,
        name=run.name,
        config=without_training(with_defaults(config)),
        seed=config.seed,
        tags={key: str(value) for key, value in config.choices.items() if value is not None}
        | pipeline_tag(config),
        is_report=is_report,
    )
    tracking = construct(config.tracking, TrackingOptions)
    return start_run(card, options=tracking, run_folder=run.path, project_folder=Path.cwd())
