"""Evaluate a causal language model on tasks of EleutherAI's lm-evaluation-harness."""

from dataclasses import replace
from pathlib import Path

from modules.transformer import Decoder
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.errors import ConfigError
from pipeline.evaluation.rows import EVALUATION
from pipeline.harness.catalogue import ALL_OF_OURS, load_tasks
from pipeline.harness.options import HarnessOptions
from pipeline.harness.results import RESULTS, HarnessResults
from pipeline.harness.run import check_installed, evaluate_tasks
from pipeline.machine.devices import check_device
from pipeline.machine.options import TrainerOptions
from pipeline.runs.bundle import Bundle, load_bundle
from pipeline.runs.find import Kind, find_bundle
from pipeline.runs.folders import RunFolder
from pipeline.runs.inputs import inputs_of
from pipeline.runs.placing import place
from pipeline.runs.start import check_has_head
from pipeline.runs.stored import backbone_class
from pipeline.training.states import Composed, start


def evaluate_language_model(config: Config) -> StageResult:
    """Run harness tasks, by default all of Prelude's, and record each metric with its standard error."""
    check_installed()
    from pipeline.harness.model import BundleLM  # imports the library

    options = _in_full_precision(construct(config.trainer, TrainerOptions))
    asked = construct(config.harness, HarnessOptions)
    check_device(options)
    bundle = load_bundle(find_bundle(config.bundle, Path(config.runs_dir), kind=_kind))
    check_has_head(bundle)
    described = place(bundle.model, options, config.quantization)
    report.say("Bundle", report.short(bundle.folder))
    report.say("Model", described)
    model = BundleLM(bundle, batch_size=options.answer_batch_size, seed=config.seed)
    tasks = load_tasks(config.tasks or [ALL_OF_OURS], asked.folder)
    names = list(tasks["tasks"])
    report.say("Tasks", ", ".join(names))
    with start(_compose(config, bundle)) as started:
        run, tracked = started.run, started.tracked
        results = HarnessResults.read(evaluate_tasks(model, tasks, asked, seed=config.seed), names)
        results.save(run.path)
        run.keep(run.path / EVALUATION)
        tracked.log_file(run.path / RESULTS, RESULTS)
        tracked.describe(f"`{report.short(bundle.folder)}`, measured by the lm-evaluation-harness.")
        tracked.end("FINISHED", results.metrics)
        report.panel(f"{run.name}: done", results.table())
        if tracked.url is not None:
            report.show_address("This run", tracked.url)
    return StageResult(
        stage="evaluate-lm", run_id=tracked.run_id, bundle=str(bundle.folder), metrics=results.metrics
    )


def _in_full_precision(options: TrainerOptions) -> TrainerOptions:
    """Set the precision to that of the weights, since results depend on small differences of log-likelihoods.

    Raises:
        ConfigError: if another precision is requested.
    """
    if options.precision not in ("auto", "fp32"):
        raise ConfigError(
            f"trainer.precision={options.precision}",
            "fp32, the precision of the weights",
            "leave out trainer.precision",
        )
    return replace(options, precision="fp32")


def _compose(config: Config, bundle: Bundle) -> Composed:
    """Return the run of the evaluation; it records the bundle's folder, since `latest` changes with time."""
    trainer = {**config.trainer, "precision": "fp32"}
    return Composed(
        config=Config({**config, "bundle": str(bundle.folder), "trainer": trainer}),
        label=f"evaluate-lm-{bundle.provenance['run']}",
        inputs=inputs_of(config, used=bundle.folder),
        bundle=bundle,
        is_report=True,
    )


def _kind(run: RunFolder) -> Kind:
    """Rate a decoder as suitable; newer bundles that are skipped are reported."""
    kind = backbone_class(run.bundles / "best")
    return Kind(rank=0 if kind is Decoder else None, title=f"its backbone is {kind.__name__}")
