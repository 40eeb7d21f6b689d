"""Translate errors of a store to one line that says what is wrong and what to do."""

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.tracking.options import Store
from pipeline.tracking.secret_forms import without_credentials
from pipeline.words import shorten

_MOST_CHARS, _MOST_SHOWN = 300, 160


@dataclass(frozen=True)
class Problem:
    """Why a store rejected something.

    Args:
        text: what is wrong, including the name of the store.
        expected: what was expected of the store.
        remedy: what the user can do; empty if unknown.
        lasting: whether the problem will not go away within seconds, so that waiting is pointless.
    """

    text: str
    expected: str
    remedy: str
    lasting: bool = False


@dataclass(frozen=True)
class _Meaning:
    problem: str
    expected: str
    remedy: str
    lasting: bool = False


def explain(error: Exception, store: Store) -> Problem:
    """Explain an error of MLflow, a database or a disk in plain words."""
    where = store.sqlite_file or store.public_uri
    lines = [without_credentials(line) for line in str(error).splitlines()]
    for sign, meaning in (*_schema(str(error)), *_KNOWN):
        telling = next((line for line in lines if re.search(sign, line)), None)
        if telling is not None:
            said = f"{where} {meaning.problem} ({_shortened(telling)})"
            return Problem(said, meaning.expected, meaning.remedy, meaning.lasting)
    return Problem(f"{where}: {first_line(error)}", "a request that MLflow accepts", "")


def _shortened(line: str) -> str:
    """Return the first sentence of an error, shortened; the writer's log has all of it."""
    sentence = line.split(". ", maxsplit=1)[0].rstrip(".")
    return shorten(sentence, _MOST_SHOWN)


def first_line(error: Exception) -> str:
    """Return the first line of an error, without credentials in URIs."""
    text = str(error).strip() or type(error).__name__
    return without_credentials(text.splitlines()[0])[:_MOST_CHARS]


def _schema(text: str) -> list[tuple[str, _Meaning]]:
    """Return the meaning of a schema mismatch: the store is older or newer than the installed MLflow."""
    found = re.search(r"database schema \(found version (\w+)", text)
    if found is None:
        return []
    import mlflow

    known = (Path(mlflow.__file__).parent / "store/db_migrations/versions").glob(f"{found[1]}_*.py")
    return [("database schema", _OLDER if any(known) else _NEWER)]


_NEWER = _Meaning(
    "was written by a newer version of MLflow",
    "a store of the installed version",
    "install the newer version of MLflow, or choose another store with tracking.uri",
    lasting=True,
)
_OLDER = _Meaning(
    "was written by an older version of MLflow",
    "a store of the installed version",
    "make a backup copy of it and run `mlflow db upgrade`",
    lasting=True,
)
_SIGN_IN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"

#: Pattern in an error -> its meaning; the first match counts.
_KNOWN = (
    (
        "error code 401|UNAUTHENTICATED",
        _Meaning(
            "does not accept this user and password", "a known user and password", _SIGN_IN, lasting=True
        ),
    ),
    (
        "error code 403|PERMISSION_DENIED",
        _Meaning("does not permit this user to do that", "a user with write access", _SIGN_IN, lasting=True),
    ),
    (
        "password authentication failed|no password supplied",
        _Meaning(
            "does not accept this user and password",
            "a known user and password",
            "correct them in tracking.uri or MLFLOW_TRACKING_URI",
            lasting=True,
        ),
    ),
    (
        r"error code 5|too many \d+ error responses",
        _Meaning("responds with an error", "a working server", "read the log of the server"),
    ),
    (
        "API request|connection to server|Connection refused|could not connect",
        _Meaning("does not respond", "a running server", "start the server"),
    ),
    (
        "database is locked",
        _Meaning(
            "is locked by another process",
            "a writable database",
            "wait until that process ends",
        ),
    ),
    (
        "readonly database|attempt to write a readonly",
        _Meaning("cannot be written", "a writable database", "correct its permissions"),
    ),
    (
        "unable to open database|Permission denied",
        _Meaning("cannot be opened", "a readable file", "correct its permissions"),
    ),
    (
        "database or disk is full|No space left|Disk quota",
        _Meaning("is on a full disk", "free space", "free some space"),
    ),
    (
        "not a database|malformed",
        _Meaning(
            "is not a database, or is damaged",
            "an MLflow store",
            "restore it from a copy, or move it away",
            lasting=True,
        ),
    ),
)
