"""Bundles as versions of registered models; the champion changes only for a better one."""

import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock

from pipeline.__main__ import main
from pipeline.runs import bundle
from pipeline.tracking.options import Store
from pipeline.tracking.spool import Progress
from tests.pipeline.made_bundles import finish, make_bundle, make_evaluation, make_run

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

Trained = Callable[..., Path]


@pytest.fixture
def trained(
    begin: Callable[..., Any], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Trained:
    """Makes runs whose bundles their spools have logged, and of which MLflow has nothing yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def train(name: str, **more: Any) -> Path:
        folder = make_bundle(tmp_path / "runs" / name, weights=name.encode(), **more)
        run = begin(folder=f"runs/{name}", name=name)
        run.log_bundle(folder, name="best", step=20, metrics={"test/accuracy": 0.5})
        run.end("FINISHED")
        return folder

    return train


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, and the error with its hint."""
    capsys.readouterr()
    code = main(list(words))
    printed = capsys.readouterr()
    return code, printed.out.strip(), printed.err[printed.err.rfind("error: ") :].strip()


@pytest.mark.slow
def test_a_bundle_becomes_one_version_however_often_it_is_registered(
    trained: Trained, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained("a", metrics={"test/accuracy": 0.75})
    assert call(capsys, "register", "bundle=a")[:2] == (0, "prelude-classify/1")
    assert call(capsys, "register", "bundle=a", "alias=champion")[:2] == (0, "prelude-classify/1")
    (found,) = client.search_model_versions("name = 'prelude-classify'")
    version = client.get_model_version(found.name, found.version)
    assert set(version.aliases) == {"challenger", "champion"}
    assert version.tags["bundle_digest"] == bundle.digest(folder)
    assert version.tags["run"] == "a"
    assert version.tags["task"] == "classify"
    assert "| test/accuracy | 0.75 |" in version.description
    assert "Measured on 200 test rows of reviews." in version.description
    model_page = client.get_registered_model("prelude-classify").description
    assert "mlflow.pyfunc.load_model" in model_page
    progress = Progress.load(folder.parents[1] / "tracking")
    model = client.get_logged_model(progress.models[str(folder)])
    assert version.source == model.artifact_location
    assert version.run_id == model.source_run_id == progress.run_id
    assert json.loads(model.tags["mlflow.modelVersions"])[0]["name"] == "prelude-classify"


@pytest.mark.slow
def test_a_registration_waits_for_the_process_that_still_sends_the_run(
    trained: Trained, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained("a")
    writer = FileLock(folder.parents[1] / "tracking/writer.lock", thread_local=False)
    writer.acquire()
    end = threading.Timer(1.0, writer.release)
    end.start()
    try:
        assert call(capsys, "register", "bundle=a")[:2] == (0, "prelude-classify/1")
    finally:
        end.join()


def test_a_damaged_bundle_is_not_registered(
    trained: Trained, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained("a") / "model.safetensors").write_bytes(b"flipped")
    code, _, error = call(capsys, "register", "bundle=a")
    assert code == 2
    assert "has changed since it was saved" in error
    assert not client.search_registered_models()


@pytest.mark.slow
def test_a_bundle_whose_run_was_not_tracked_is_logged_once_when_it_is_registered(
    trained: Trained, client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("a")
    silent = make_bundle(tmp_path / "runs/silent", metrics={"test/accuracy": 0.75})
    (silent / "config.yaml").write_text("choices: {task: classify}\nhub: {api_key: abc}\n")
    finish(silent)
    assert call(capsys, "register", "bundle=silent")[:2] == (0, "prelude-classify/1")
    assert call(capsys, "register", "bundle=silent", "model_name=other")[:2] == (0, "other/1")
    version, other = (client.get_model_version(name, "1") for name in ("prelude-classify", "other"))
    assert version.model_id == other.model_id
    run = client.get_run(version.run_id)
    assert (run.info.status, run.data.tags["tracked"]) == ("FINISHED", "when registered")
    assert run.data.metrics == {"test/accuracy": 0.75}
    assert run.data.params["hub.api_key"] == "<redacted>"
    assert (Path(unquote(urlsplit(version.source).path)) / "model.safetensors").exists()


@pytest.mark.parametrize("alias", ["two words", "v3", "latest", "a/b"])
def test_an_impossible_alias_is_refused_before_anything_is_made(
    trained: Trained, client: Any, capsys: pytest.CaptureFixture[str], alias: str
) -> None:
    trained("a")
    code, _, error = call(capsys, "register", "bundle=a", f"alias='{alias}'")
    assert (code, f"alias={alias} is not a valid alias" in error) == (2, True)
    assert not client.search_registered_models()


@pytest.mark.slow
def test_a_registered_model_is_named_by_alias_or_number_and_told_in_its_lineage(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("a")
    call(capsys, "register", "bundle=a")
    for name in ("prelude-classify@challenger", "prelude-classify/1", "models:/prelude-classify/1"):
        code, out, _ = call(capsys, "lineage", f"bundle='{name}'")
        assert code == 0
        assert "prelude-classify version 1  alias challenger" in out
    code, _, error = call(capsys, "lineage", "bundle=prelude-classify@nobody")
    assert code == 2
    assert "no registered model prelude-classify@nobody" in error
    assert "(prelude-classify)" in error


@pytest.mark.slow
def test_the_lineage_of_a_registered_model_survives_the_deletion_of_its_run(
    trained: Trained, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trained("a")
    call(capsys, "register", "bundle=a")
    (tmp_path / "runs/a").rename(tmp_path / "elsewhere")
    code, out, _ = call(capsys, "lineage", "bundle=prelude-classify/1", "output=out")
    assert code == 0
    assert "a (finetune)" in out


SCORES = [float(i % 2) for i in range(200)]
BETTER = [float(i % 4 != 0) for i in range(200)]


def champion(capsys: pytest.CaptureFixture[str], name: str = "a") -> None:
    assert call(capsys, "register", f"bundle={name}", "alias=champion")[0] == 0


def promoted(capsys: pytest.CaptureFixture[str], name: str) -> tuple[bool, str]:
    capsys.readouterr()
    code = main(["promote", f"bundle={name}"])
    assert code in (0, 2)
    return code == 0, " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "better", "says"),
    [
        (BETTER, True, "accuracy +0.2500 (95 %: +0.1"),
        ([*SCORES[:-2], 1.0, 1.0], False, "accuracy +0.0050 (95 %: -0.0"),
        ([1 - score for score in BETTER], False, "accuracy -0.2500"),
    ],
    ids=["better", "by one row of 200", "worse"],
)
def test_a_challenger_becomes_champion_only_where_the_paired_test_says_that_it_is_better(
    trained: Trained,
    client: Any,
    capsys: pytest.CaptureFixture[str],
    scores: list[float],
    better: bool,
    says: str,
) -> None:
    make_evaluation(trained("a").parents[1], SCORES)
    make_evaluation(trained("b").parents[1], scores)
    champion(capsys)
    done, line = promoted(capsys, "b")
    assert done == better
    assert says in line
    assert "200 rows" in line
    holder = client.get_model_version_by_alias("prelude-classify", "champion")
    assert holder.tags["run"] == ("b" if better else "a")


@pytest.mark.slow
def test_the_first_challenger_becomes_champion_and_stays_it(
    trained: Trained, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("a")
    assert promoted(capsys, "a") == (
        True,
        "Registry prelude-classify version 1 is now champion: there was no champion before",
    )
    assert promoted(capsys, "a") == (True, "Registry prelude-classify version 1 is already the champion")
    version = client.get_model_version_by_alias("prelude-classify", "champion")
    assert list(version.aliases) == ["champion"]


@pytest.mark.slow
def test_intervals_alone_make_no_champion(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    for name, interval in (("a", (0.5, 0.4, 0.6)), ("b", (0.7, 0.61, 0.8))):
        keys = ("test/accuracy", "test/accuracy_low", "test/accuracy_high")
        trained(name, metrics=dict(zip(keys, interval, strict=True)))
    champion(capsys)
    done, line = promoted(capsys, "b")
    assert not done
    assert "no scores per row of prelude-classify version 2 and prelude-classify version 1" in line


@pytest.mark.slow
def test_models_measured_on_different_rows_are_not_judged(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    make_evaluation(trained("a").parents[1], SCORES)
    make_evaluation(trained("b").parents[1], BETTER, rows="other")
    champion(capsys)
    done, line = promoted(capsys, "b")
    assert (done, "measured on different rows" in line) == (False, True)


@pytest.mark.slow
def test_later_evaluations_of_both_on_one_corpus_are_what_they_are_judged_by(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_evaluation(trained("a").parents[1], SCORES)
    make_evaluation(trained("b").parents[1], SCORES, rows="other")
    for name, scores in (("a", SCORES), ("b", BETTER)):
        later = make_run(tmp_path / f"runs/evaluate-{name}", stage="evaluate")
        (later / "config.yaml").write_text(f"bundle: {name}\n")
        make_evaluation(later, scores, rows="common")
    champion(capsys)
    assert promoted(capsys, "b")[0]


@pytest.fixture
def newer(store: Store) -> None:
    with closing(sqlite3.connect(store.sqlite_file or "")) as database, database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")


@pytest.fixture
def no_database(store: Store) -> None:
    (store.sqlite_file or Path()).write_text("no database" * 1000)


@pytest.fixture
def missing(store: Store) -> None:
    (store.sqlite_file or Path()).unlink()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("newer", "was written by a newer version of MLflow"),
        ("no_database", "is not a database"),
        ("missing", "there is no MLflow store"),
    ],
)
def test_a_store_that_cannot_be_used_is_answered_in_one_line_and_lineage_goes_without_it(
    trained: Trained,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    fault: str,
    says: str,
) -> None:
    make_bundle(tmp_path / "runs/a")
    request.getfixturevalue(fault)
    code, _, error = call(capsys, "register", "bundle=a")
    assert code == 2
    assert error.startswith("error: ")
    assert says in error
    capsys.readouterr()
    assert main(["lineage", "bundle=a"]) == 0
    assert says in " ".join(capsys.readouterr().err.split())
