"""Trace a model back to the files, the code and the seed that it was made from."""

import json
from pathlib import Path

from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.errors import RunError, TrackingError
from pipeline.files import write_whole
from pipeline.lineage import Node, State, as_tree, draw, trace
from pipeline.registry import versions as registry
from pipeline.registry.versions import Version, registrations_of
from pipeline.runs import bundle
from pipeline.tracking import TrackingOptions
from pipeline.tracking.connection import connect, store_of


def lineage(config: Config) -> StageResult:
    """Print the lineage of a bundle or a registered model, and write it as a picture and as JSON.

    Raises:
        BundleError, TrackingError: if there is no such bundle or registered model.
        RunError: if the picture cannot be written.
    """
    folder = _find(config)
    node = trace(
        folder,
        runs_dir=Path(config.runs_dir),
        cache_dir=Path(config.cache_dir),
        registrations=_registrations(config, folder),
    )
    report.page(as_tree(node))
    _say_differences(node)
    target = Path(config.output) if config.output else _home_of(folder)
    _write(node, target)
    report.say("Picture", report.short(target / "lineage.svg"))
    counts = {str(state): float(sum(part.state is state for part in node.walk())) for state in State}
    return StageResult(stage="lineage", bundle=str(folder), metrics=counts)


def _find(config: Config) -> Path:
    if not registry.looks_registered(config.bundle):
        return registry.find_trained(config.bundle, Path(config.runs_dir))
    with connect(store_of(construct(config.tracking, TrackingOptions))) as client:
        version = registry.find_version(client, config.bundle)
    report.say("Model", f"{version.title}: {report.short(version.folder)}")
    return version.folder


def _registrations(config: Config, folder: Path) -> list[Version]:
    """Return the bundle's versions in MLflow's registry; if the store is unreachable, report that instead."""
    options = construct(config.tracking, TrackingOptions)
    if not options.enabled:
        return []
    try:
        return registrations_of(store_of(options), bundle.digest(folder))
    except TrackingError as error:
        report.say("Registry", f"not checked: {error.problem}")
        return []


def _home_of(folder: Path) -> Path:
    """Return the folder of the bundle's run, or the working folder for a bundle without one."""
    run = folder.parent.parent
    return run if (run / "run.json").exists() else Path()


def _say_differences(node: Node) -> None:
    wrong = [part for part in node.walk() if part.state in (State.CHANGED, State.GONE) and part.note]
    for line in dict.fromkeys(f"{part.kind} {part.title}: {part.note}" for part in wrong):
        report.say("Differs", line)
    if not wrong:
        report.say("Checked", "everything that can be checked matches the record")


def _write(node: Node, target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_whole(target / "lineage.svg", draw(node))
        text = json.dumps(node.to_plain(), indent=2, ensure_ascii=False)
        write_whole(target / "lineage.json", text + "\n")
    except OSError as error:
        raise RunError(
            f"cannot write to {target} ({error.strerror})",
            "a writable folder",
            "give OUTPUT=FOLDER",
        ) from error
