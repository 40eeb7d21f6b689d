"""Measure a causal language model on tasks of EleutherAI's lm-evaluation-harness."""

from pathlib import Path

from modules.transformer import Decoder
from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.evaluation.rows import EVALUATION
from pipeline.harness.catalogue import ALL_OF_OURS, load_tasks
from pipeline.harness.options import HarnessOptions
from pipeline.harness.results import RESULTS, HarnessResults
from pipeline.harness.run import check_installed, evaluate_tasks
from pipeline.machine.devices import check_device, device_of
from pipeline.machine.options import TrainerOptions
from pipeline.runs.bundle import load_bundle
from pipeline.runs.find import Kind, find_bundle
from pipeline.runs.folders import RunFolder, open_run
from pipeline.runs.inputs import inputs_of
from pipeline.runs.start import with_measured
from pipeline.runs.stored import backbone_class
from pipeline.training.fit import track


def evaluate_language_model(config: Config) -> StageResult:
    """Run the harness's tasks, by default all of ours, and record each metric with its standard error."""
    check_installed()
    from pipeline.harness.model import BundleLM  # it imports the library

    options = construct(config.trainer, TrainerOptions)
    asked = construct(config.harness, HarnessOptions)
    check_device(options)
    folder = find_bundle(config.bundle, Path(config.runs_dir), kind=_kind)
    bundle = load_bundle(folder)
    device = device_of(options)
    bundle.model.to(device)
    report.say("Bundle", report.short(folder))
    report.say("Model", report.describe_model(bundle.model))
    model = BundleLM(bundle, batch_size=options.answer_batch_size, seed=config.seed)
    tasks = load_tasks(config.tasks or [ALL_OF_OURS], asked.folder)
    names = list(tasks["tasks"])
    report.say("Tasks", ", ".join(names))
    inputs = inputs_of(config, used=folder)
    config = with_measured(config, folder)
    label = f"evaluate-lm-{bundle.provenance['run']}"
    with open_run(config, label=label, inputs=inputs) as run, track(config, run, is_report=True) as tracked:
        tracked.use_bundle(folder)
        report.say("Run", f"{report.short(run.path)}, {device.type.upper()}")
        found = evaluate_tasks(model, tasks, asked, seed=config.seed)
        results = HarnessResults.read(found, names)
        results.save(run.path)
        run.keep(run.path / EVALUATION)
        tracked.log_file(run.path / RESULTS, RESULTS)
        tracked.describe(f"The bundle `{report.short(folder)}`, measured by the lm-evaluation-harness.")
        tracked.end("FINISHED", results.metrics)
        report.panel(f"{run.name}: done", results.table())
        if tracked.url is not None:
            report.show_address("This run", tracked.url)
    return StageResult(
        stage="evaluate-lm", run_id=tracked.run_id, bundle=str(folder), metrics=results.metrics
    )


def _kind(run: RunFolder) -> Kind:
    """The newest decoder is taken; what else is newer is said."""
    kind = backbone_class(run.bundles / "best")
    return Kind(rank=0 if kind is Decoder else None, title=f"its backbone is {kind.__name__}")
