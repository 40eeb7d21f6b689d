"""The stages `register` and `promote`: make a bundle a version, and the better version the champion."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.construct import construct
from pipeline.config.plain import Config
from pipeline.errors import RunError, TrackingError
from pipeline.output import write_whole
from pipeline.registry import versions as registry
from pipeline.registry.kept import REGISTRATION
from pipeline.registry.promotion import judge
from pipeline.registry.versions import CHALLENGER, CHAMPION, Version
from pipeline.runs.folders import open_run
from pipeline.runs.inputs import inputs_of_registration
from pipeline.tracking.connection import connect, store_of
from pipeline.tracking.links import version_url
from pipeline.tracking.options import TrackingOptions

if TYPE_CHECKING:
    from mlflow import MlflowClient


def register(config: Config) -> StageResult:
    """Register a bundle as a version of a registered model, with an alias.

    Raises:
        BundleError: if there is no such bundle, or it is damaged.
        TrackingError: if the store does not have the bundle, or does not respond.
    """
    registry.check_alias(config.alias)
    options = construct(config.tracking, TrackingOptions)
    store = store_of(options)
    folder = registry.find_trained(config.bundle, Path(config.runs_dir))
    name = config.model_name or registry.default_name(folder)
    inputs = inputs_of_registration(folder, model=name, alias=config.alias, store=store.public_uri)
    with connect(store) as client, open_run(config, label=f"register-{name}", inputs=inputs) as run:
        version, is_new = registry.register_bundle(
            client, store, folder, name=name, alias=config.alias, experiment=options.experiment
        )
        record = run.path / REGISTRATION
        write_whole(record, json.dumps({"model": version.name, "version": version.number}))
        run.keep(record)
    what = "is new" if is_new else "already is this bundle"
    report.say("Registry", f"{version.title} {what}, {_called(version)}: {report.short(folder)}")
    report.say("Use", registry.USE)
    _say_next(version)
    report.show_address("This version", version_url(store.public_uri, version.name, version.number))
    return StageResult(stage="register", bundle=str(folder), output=[f"{version.name}/{version.number}"])


def promote(config: Config) -> StageResult:
    """Make the challenger champion if there is no champion yet, or if it is significantly better.

    Raises:
        RunError: if it is not better, or the two cannot be compared.
        TrackingError: if there is no challenger, or MLflow does not respond.
    """
    options = construct(config.tracking, TrackingOptions)
    store = store_of(options)
    with connect(store) as client:
        challenger = _challenger(config, client, options)
        champion = registry.with_alias(client, challenger.name, CHAMPION)
        if champion is not None and champion.number == challenger.number:
            report.say("Registry", f"{challenger.title} is already the champion")
        else:
            reason = _why_better(challenger, champion, Path(config.runs_dir))
            client.set_registered_model_alias(challenger.name, CHAMPION, challenger.number)
            if CHALLENGER in challenger.aliases:
                client.delete_registered_model_alias(challenger.name, CHALLENGER)
            report.say("Registry", f"{challenger.title} is now champion: {reason}")
    return StageResult(
        stage="promote", bundle=str(challenger.folder), output=[f"{challenger.name}/{challenger.number}"]
    )


def _challenger(config: Config, client: "MlflowClient", options: TrackingOptions) -> Version:
    """Return the requested version, or that of the requested bundle, which is registered if necessary."""
    if registry.looks_registered(config.bundle):
        return registry.find_version(client, config.bundle)
    if config.bundle == "latest" and config.model_name:
        found = registry.with_alias(client, config.model_name, CHALLENGER)
        if found is None:
            raise TrackingError(
                f"{config.model_name} has no {CHALLENGER}",
                "a version with this alias",
                "run `make register` first",
            )
        return found
    folder = registry.find_trained(config.bundle, Path(config.runs_dir))
    name = config.model_name or registry.default_name(folder)
    version = registry.registered(client, folder, name)
    if version is None:
        version, _ = registry.register_bundle(
            client, store_of(options), folder, name=name, alias=CHALLENGER, experiment=options.experiment
        )
    return version


def _why_better(challenger: Version, champion: Version | None, runs_dir: Path) -> str:
    if champion is None:
        return "there was no champion before"
    verdict = judge(challenger, champion, runs_dir)
    if not verdict.is_better:
        raise RunError(
            f"{challenger.title} is not significantly better than the champion, version {champion.number}: "
            f"{verdict.numbers}",
            "a significant difference (p < 0.05, paired test on the same rows)",
            "keep the champion, train a better model, or evaluate both on more rows",
        )
    return verdict.numbers


def _called(version: Version) -> str:
    return ", ".join(sorted(version.aliases)) or "no alias"


def _say_next(version: Version) -> None:
    if CHAMPION not in version.aliases:
        report.say(
            "Next",
            f"make promote MODEL={version.name}@{version.aliases[0]}  makes it champion if it is better",
        )
