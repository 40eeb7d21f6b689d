"""The options of tracking, and the MLflow store that they select."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import ConfigError, TrackingError
from pipeline.tracking.run import RunCard
from pipeline.tracking.secret_forms import without_credentials

_SERVERS = frozenset({"http", "https"})
_DATABASES = frozenset({"postgresql", "mysql", "mssql"})
#: Database drivers whose package has another name.
_PACKAGES = {"psycopg": "psycopg2-binary", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
#: The largest `end_wait_s`; records that are not sent by then stay in the spool.
_MAX_END_WAIT_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """Whether, where and how runs are tracked.

    Args:
        enabled: False disables tracking.
        uri: An MLflow store or server; None: `MLFLOW_TRACKING_URI`, or else `mlflow.db` in the project
            folder.
        experiment: The MLflow experiment of training runs; other runs (tokenizers, evaluations, comparisons,
            sweeps) are in a second experiment, NAME-reports.
        system_metrics: Sample processor, memory, disk, network and GPU every ten seconds.
        end_wait_s: Seconds to wait for the store at the end of a run, at most. A slow store then receives the
            rest in the background, unless this is 0.
        tags: Further tags of the run, set with tracking.tags.NAME=TEXT.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str = "prelude"
    system_metrics: bool = True
    end_wait_s: float = 6.0
    tags: Mapping[str, str] = field(default_factory=dict)

    def experiment_of(self, card: RunCard) -> str:
        """Return the experiment that a run belongs to."""
        return self.reports if card.is_report else self.experiment

    @property
    def reports(self) -> str:
        """The experiment of runs that do not train."""
        return f"{self.experiment}-reports"

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise ConfigError("tracking.experiment is empty", "a name", "set tracking.experiment=NAME")
        if not 0 <= self.end_wait_s <= _MAX_END_WAIT_S:
            raise ConfigError(
                f"tracking.end_wait_s is {self.end_wait_s}",
                f"0 to {_MAX_END_WAIT_S:.0f} seconds",
                "leave out tracking.end_wait_s for the default of 6",
            )


@dataclass(frozen=True)
class Store:
    """An MLflow store: its URI, and the artifact folder of new experiments (None: the server decides)."""

    uri: str
    artifact_root: Path | None

    @property
    def sqlite_file(self) -> Path | None:
        """The database file of a local store."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    @property
    def public_uri(self) -> str:
        """The URI without credentials."""
        return without_credentials(self.uri)


def resolve_store(uri: str | None, *, project_folder: Path, environ: Mapping[str, str]) -> Store:
    """Return the store to use, with absolute paths, so that it does not depend on the working folder later.

    Artifacts of new experiments in a database go to the project's `mlartifacts`; a server decides itself.

    Raises:
        TrackingError: if the URI names a plain folder, an unknown kind of store, a database whose driver is
            not installed, or a file whose folder does not exist.
    """
    chosen = uri or environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme = urlsplit(chosen).scheme.split("+")[0]
    if scheme in _SERVERS:
        return Store(chosen.rstrip("/"), None)
    if scheme in _DATABASES:
        return Store(_with_driver(chosen.rstrip("/")), project_folder.absolute() / "mlartifacts")
    if scheme != "sqlite":
        raise _not_a_store(chosen, scheme)
    if not chosen.startswith("sqlite:///") or len(chosen) == len("sqlite:///"):
        raise TrackingError(
            f"the MLflow store {chosen!r} names no file",
            "sqlite:///FILE, for example sqlite:///mlflow.db",
            "correct tracking.uri, or leave it out",
        )
    file = (project_folder / chosen.removeprefix("sqlite:///")).absolute()
    if any(letter in "?%" or "\ud800" <= letter <= "\udfff" for letter in str(file)):
        raise TrackingError(
            f"the path of the MLflow store, {file}, contains characters that are special in a URI",
            "a path in valid Unicode without ? and %",
            "rename the folder, or set tracking.uri=sqlite:////OTHER/FOLDER/mlflow.db or tracking=off",
        )
    if not file.parent.is_dir():
        raise TrackingError(
            f"the folder of the MLflow store, {file.parent}, does not exist",
            "a writable folder",
            f"create it (mkdir -p {file.parent}), or set tracking.uri to another file",
        )
    return Store(f"sqlite:///{file}", file.parent / "mlartifacts")


def _with_driver(uri: str) -> str:
    """Return the URI of a database with an installed driver; `postgresql:` selects either of its two drivers.

    Raises:
        TrackingError: if it is not the URI of a database, or no driver for it is installed.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    shown, plain = without_credentials(uri), "postgresql:"
    if uri.startswith(plain) and find_spec("psycopg") is None and find_spec("psycopg2") is not None:
        uri = f"postgresql+psycopg2:{uri.removeprefix(plain)}"
    try:
        make_url(uri).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(error.name or "", error.name)
        raise TrackingError(
            f"the MLflow store {shown} needs the driver {error.name}, which is not installed",
            "the driver of the database",
            f"install it with `pip install {package}`, or set tracking.uri to another store",
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise TrackingError(
            f"the MLflow store {shown!r} is not a database URI ({without_credentials(str(error))})",
            "for example postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
            "correct tracking.uri or MLFLOW_TRACKING_URI",
        ) from None
    return uri


def _not_a_store(uri: str, scheme: str) -> TrackingError:
    shown = without_credentials(uri)
    if scheme in {"", "file"} or len(scheme) == 1:
        return TrackingError(
            f"the MLflow store {shown!r} is a plain folder, which MLflow no longer supports",
            "a database, for example sqlite:///mlflow.db, or a server, http://HOST:PORT",
            "migrate old runs with `mlflow migrate-filestore`, or unset tracking.uri (MLFLOW_TRACKING_URI)",
        )
    return TrackingError(
        f"the MLflow store {shown!r} is of an unknown kind, {scheme!r}",
        f"sqlite or one of {', '.join(sorted(_SERVERS | _DATABASES))}",
        "correct tracking.uri, or leave it out for a local store",
    )
