"""Register bundles as versions of registered models in MLflow."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pipeline.card import MLFLOW_CHARACTERS, card_body, folder_facts
from pipeline.config.plain import select
from pipeline.errors import BundleError, ConfigError, TrackingError
from pipeline.registry.pyfunc import add_pyfunc
from pipeline.registry.untracked import log_untracked
from pipeline.runs import bundle
from pipeline.runs.find import LATEST, find_bundle, newest_bundle
from pipeline.runs.stored import read_part
from pipeline.tracking import sync
from pipeline.tracking.connection import connect
from pipeline.tracking.options import Store
from pipeline.tracking.spool import POINTS, Progress, count_unsent, lane_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"

#: Tags of a version.
DIGEST, FOLDER, LOGGED_MODEL = "bundle_digest", "bundle", "model_id"

#: How to use a registered version, for readers in MLflow.
USE = (
    "A version contains a bundle and the files with which MLflow loads it: `mlflow.pyfunc.load_model`, "
    "`mlflow models serve`. `make serve MODEL=NAME@champion` serves it with batching and streaming. "
    "To use it elsewhere, download the folder with `mlflow artifacts download`, then run "
    "`make predict-TASK BUNDLE=FOLDER`."
)

#: MLflow's tag of a model that names its registered versions.
MODEL_VERSIONS = "mlflow.modelVersions"

#: `NAME@ALIAS` or `NAME/VERSION`, with or without MLflow's `models:/`.
_REGISTERED = re.compile(r"(?:models:/)?(?P<name>[^@/]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))$")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model, and its bundle."""

    name: str
    number: str
    aliases: Sequence[str]
    folder: Path
    digest: str

    @property
    def title(self) -> str:
        """The name for readers, such as `prelude-qa version 3`."""
        return f"{self.name} version {self.number}"


def find_trained(spec: str, runs_dir: Path) -> Path:
    """Find the bundle that `spec` names; `latest` is the newest finished one of any stage.

    Raises:
        BundleError: if there is no such bundle, or it is not finished.
    """
    newest = newest_bundle(runs_dir) if spec == LATEST else None
    return newest or find_bundle(spec, runs_dir)


def check_alias(alias: str) -> None:
    """Reject aliases that MLflow would reject only after creating the version.

    Raises:
        ConfigError: if `alias` is not a valid alias.
    """
    if not re.fullmatch(r"(?!latest$|v\d+$)[\w-]+", alias, re.IGNORECASE | re.ASCII):
        raise ConfigError(
            f"alias={alias} is not a valid alias",
            "letters, digits, '_' and '-', but neither `latest` nor v and a number",
            f"use for example alias={CHALLENGER}",
        )


def looks_registered(spec: str) -> bool:
    """Return whether `spec` looks like a version of a registered model and is not a folder."""
    return bool(_REGISTERED.match(spec)) and not Path(spec).exists()


def find_version(client: "MlflowClient", spec: str) -> Version:
    """Return the version that NAME@ALIAS or NAME/VERSION names.

    Raises:
        TrackingError: if there is no such model, alias or version.
    """
    from mlflow.exceptions import MlflowException

    found = _REGISTERED.match(spec)
    if found is None:
        raise ValueError(f"{spec} does not name a version of a registered model")
    try:
        if found["alias"]:
            version = client.get_model_version_by_alias(found["name"], found["alias"])
        else:
            version = client.get_model_version(found["name"], found["version"])
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        names = ", ".join(model.name for model in client.search_registered_models(max_results=10))
        raise TrackingError(
            f"there is no registered model {spec}",
            f"NAME@ALIAS or NAME/VERSION of a registered model ({names or 'none yet'})",
            "register one with `make register MODEL=run`",
        ) from error
    return _version(client, version)


def with_alias(client: "MlflowClient", name: str, alias: str) -> Version | None:
    """Return the version with this alias, or None."""
    model = next(iter(client.search_registered_models(f"name = '{_quoted(name)}'")), None)
    number = (model.aliases if model else {}).get(alias)
    return None if number is None else _version(client, client.get_model_version(name, number))


def versions_of(client: "MlflowClient", digest: str) -> list[Version]:
    """Return all versions of registered models that contain this bundle."""
    return [_version(client, found) for found in client.search_model_versions(f"tags.{DIGEST} = '{digest}'")]


def registrations_of(store: Store, digest: str) -> list[Version]:
    """Return the versions of all registered models that contain a bundle with this digest.

    Raises:
        TrackingError: if there is no such store, or it cannot be read.
    """
    with connect(store) as client:
        return versions_of(client, digest)


def registered(client: "MlflowClient", folder: Path, name: str) -> Version | None:
    """Return the version of a registered model that contains the bundle, or None."""
    found = versions_of(client, bundle.digest(folder))
    return next((version for version in found if version.name == name), None)


def register_bundle(
    client: "MlflowClient", store: Store, folder: Path, *, name: str, alias: str, experiment: str
) -> tuple[Version, bool]:
    """Register a bundle as a version and set the alias; registering it again adds no further version.

    The bundle of an untracked run is first logged to `experiment`.

    Returns:
        The version, and whether it is new.

    Raises:
        BundleError: if the bundle is unfinished or damaged.
        TrackingError: if its run is tracked in another store, or MLflow rejects the name or the alias.
    """
    bundle.check_files(folder)
    known = registered(client, folder, name)
    number = known.number if known else _create(client, store, folder, name, experiment=experiment)
    client.set_registered_model_alias(name, alias, number)
    return _version(client, client.get_model_version(name, number)), known is None


def default_name(folder: Path) -> str:
    """Return the default name of the registered model for a bundle, such as `prelude-qa`."""
    return name_for(_task(folder))


def name_for(task: str) -> str:
    """Return the default name of the registered model for a task's bundles."""
    return f"prelude-{task}"


def _task(folder: Path) -> str:
    return str(bundle.read_config(folder)["choices"].get("task"))


def _create(client: "MlflowClient", store: Store, folder: Path, name: str, *, experiment: str) -> str:
    model = client.get_logged_model(_logged_model(client, store, folder, experiment=experiment))
    if not client.search_registered_models(f"name = '{_quoted(name)}'"):
        client.create_registered_model(name, description=_about_model(folder))
    add_pyfunc(client, model.model_id, folder)
    version = client.create_model_version(
        name,
        model.artifact_location,
        run_id=model.source_run_id,
        tags={**_tags(folder), LOGGED_MODEL: model.model_id},
        description=_about_version(folder),
        model_id=model.model_id,
        await_creation_for=0,
    )
    # The page of the LoggedModel lists its versions from this tag, which only MLflow's fluent API sets.
    known = json.loads(model.tags.get(MODEL_VERSIONS, "[]"))
    made = {"name": name, "version": version.version}
    client.set_logged_model_tags(model.model_id, {MODEL_VERSIONS: json.dumps([*known, made])})
    return str(version.version)


def _logged_model(client: "MlflowClient", store: Store, folder: Path, *, experiment: str) -> str:
    """Return the id of a bundle's LoggedModel; if its run was not tracked, it is logged now."""
    run_folder = folder.absolute().parent.parent
    if lane_file(run_folder / "tracking", POINTS).exists():
        maker = _synced_maker(run_folder, store)
    elif (known := _registered_before(client, folder)) is not None:
        return known
    else:
        maker = log_untracked(client, store, folder, experiment=experiment, environ=os.environ)
    model_id = next((found for path, found in maker.models.items() if _same(Path(path), folder)), None)
    if model_id is None:
        raise TrackingError(
            f"MLflow has no model for {folder}",
            "a bundle that its run has logged",
            "run `make sync`, and read what it prints about this run",
        )
    return model_id


def _registered_before(client: "MlflowClient", folder: Path) -> str | None:
    """Return the id of the LoggedModel if the same bundle was registered under another name, or None."""
    same = client.search_model_versions(f"tags.{DIGEST} = '{bundle.digest(folder)}'")
    return next((found.tags[LOGGED_MODEL] for found in same if LOGGED_MODEL in found.tags), None)


def _synced_maker(run_folder: Path, store: Store) -> Progress:
    """Return the tracking progress of the run that made the bundle, after sending unsent records.

    Raises:
        TrackingError: if the run was tracked in another store, or the store does not accept it.
    """
    maker = _synced(run_folder)
    if maker.uri != store.public_uri:
        raise TrackingError(
            f"{run_folder} is tracked in {maker.uri}",
            f"a run tracked in {store.public_uri}",
            f"set tracking.uri={maker.uri}",
        )
    return maker


def _synced(run_folder: Path) -> Progress:
    """Send the unsent records of a run, and return its progress."""
    maker = Progress.load(run_folder / "tracking")
    if maker.run_id is not None and not count_unsent(run_folder / "tracking", maker):
        return maker
    sent = sync(run_folder, environ=os.environ, waits=True)
    if sent.problem:
        raise TrackingError(
            f"{run_folder} is not completely in MLflow yet ({sent.problem})",
            "a reachable store",
            "start the store, then try again",
        )
    return Progress.load(run_folder / "tracking")


def _same(recorded: Path, folder: Path) -> bool:
    """Return whether both paths are the same bundle of a run, even if the project was moved."""
    return recorded == folder.absolute() or recorded.parts[-3:] == folder.absolute().parts[-3:]


def _about_model(folder: Path) -> str:
    return (
        f"Models of the task **{_task(folder)}**, registered by `make register` and `make promote`. "
        f"The lineage of a version: `make lineage MODEL=NAME@{CHAMPION}`. {USE}"
    )


def _about_version(folder: Path) -> str:
    """Return the model card, shortened to what MLflow can store."""
    return card_body(folder_facts(folder), most=MLFLOW_CHARACTERS)


def _tags(folder: Path) -> dict[str, str]:
    provenance = read_part(folder, "provenance.json")
    return {
        DIGEST: bundle.digest(folder),
        FOLDER: str(folder.absolute()),
        "run": str(provenance["run"]),
        "task": _task(folder),
        "commit": str(select(provenance, "code.git_commit") or "none"),
        "corpus": str(select(provenance, "corpus.fingerprint")),
    }


def _version(client: "MlflowClient", found: Any) -> Version:
    """Return a version with its bundle, in its run's folder or else in MLflow's artifacts."""
    version = client.get_model_version(found.name, found.version)  # search results have no aliases
    if DIGEST not in version.tags:
        raise BundleError(
            f"{found.name} version {found.version} was not registered by this project",
            "a version that `make register` created",
            "name another version",
        )
    folder = _trained(Path(version.tags[FOLDER]), version.tags[DIGEST])
    copy = urlsplit(version.source or "")
    if not folder.exists() and copy.scheme in ("", "file"):
        folder = Path(unquote(copy.path))
    return Version(
        name=version.name,
        number=str(version.version),
        aliases=tuple(version.aliases),
        folder=folder,
        digest=version.tags[DIGEST],
    )


def _trained(recorded: Path, digest: str) -> Path:
    """Return the folder of a version's bundle, RUNS/NAME/bundles/best, even if the project was moved."""
    here = Path(*recorded.parts[-4:]).absolute()
    return here if bundle.is_finished(here) and bundle.digest(here) == digest else recorded


def _quoted(text: str) -> str:
    return text.replace("'", "\\'")
