"""Registered versions: the server follows an alias, and MLflow itself can load them."""

import json
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import requests

from pipeline.__main__ import main
from pipeline.registry.versions import find_version
from pipeline.runs.bundle import load_bundle
from pipeline.serving.follow import Follower
from pipeline.serving.served import load_served
from pipeline.tracking.options import Store
from tests.commands import ROOT
from tests.pipeline.serving.models import serving
from tests.pipeline.serving.saved import process, save_classifier
from tests.pipeline.tracking.conftest import client, ready_database, store  # noqa: F401
from tests.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
SPEC = "prelude-classify@champion"


@pytest.fixture
def folders(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:  # noqa: F811
    """Two bundles, the first of which is champion."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = {name: save_classifier(Path("runs") / name, seed=seed) for seed, name in enumerate("ab")}
    assert main(["register", "bundle=a", "alias=champion"]) == 0
    return found


@pytest.mark.slow
def test_the_server_follows_the_champion_without_a_lost_request_and_goes_on_without_a_registry(
    folders: dict[str, Path],
    store: Store,  # noqa: F811
    client: Any,  # noqa: F811
) -> None:
    said: list[str] = []
    follower = Follower(store=store, every_s=60.0, say=lambda topic, text: said.append(text))
    version = find_version(client, SPEC)
    statuses: set[int] = set()

    def ask() -> str:
        done = requests.post(f"{running.url}/v1/classify", json={"text": "a", "model": SPEC}, timeout=30)
        statuses.add(done.status_code)
        return done.headers["X-Prelude-Version"]

    with serving([load_served(SPEC, version.folder, version)], follower=follower) as running:
        assert ask() == "1"
        assert main(["register", "bundle=b", "alias=champion"]) == 0
        wait_until(lambda: follower._loop is not None, "the server looks into the registry")
        follower.look_now()
        wait_until(lambda: ask() == "2", "the server follows")
        assert "is now version 2 (before: 1)" in said[-1]
        assert store.sqlite_file is not None
        store.sqlite_file.rename("away.db")
        follower.look_now()
        wait_until(lambda: len(said) > 1, "the server says that the registry is away")
        assert "version 2 of prelude-classify is still served" in said[-1]
        assert ask() == "2"
        figures = requests.get(f"{running.url}/metrics", timeout=30).text
        assert 'prelude_reloads_total{model="prelude-classify"} 1' in figures
    assert statuses == {200}


@pytest.mark.slow
def test_a_hang_up_signal_makes_the_server_look_into_the_registry_at_once(
    folders: dict[str, Path],
    store: Store,  # noqa: F811
    tmp_path: Path,
) -> None:
    words = (
        "-m",
        "pipeline",
        "serve",
        f"bundle={SPEC}",
        "serving.follow_s=3600",
        f"tracking.uri={store.uri}",
    )
    with process(tmp_path, *words) as (server, url, _):

        def ask() -> tuple[int, str | None]:
            done = requests.post(f"{url}/v1/classify", json={"text": "a"}, timeout=60)
            return done.status_code, done.headers.get("X-Prelude-Version")

        assert ask() == (200, "1")
        assert main(["register", "bundle=b", "alias=champion"]) == 0
        assert ask() == (200, "1")
        server.send_signal(signal.SIGHUP)
        answers: list[tuple[int, str | None]] = []

        def is_second() -> bool:
            answers.append(ask())
            return answers[-1][1] == "2"

        wait_until(is_second, "the server follows")
        assert {status for status, _ in answers} == {200}
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


#: What somebody does who has MLflow, and not this project.
ELSEWHERE = """
import json, sys
import mlflow.pyfunc
import pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
answers = model.predict(pd.DataFrame({"text": ["a story", "another"]}))
import pipeline
from importlib.metadata import packages_distributions
owners = packages_distributions()
loaded = sorted({owner for name in sys.modules for owner in owners.get(name, [])})
print(json.dumps([answers, pipeline.__file__, loaded]))
"""


def source_of(client: Any) -> Path:  # noqa: F811
    return Path(str(client.get_model_version("prelude-classify", "1").source).removeprefix("file://"))


def project_requirements() -> list[str]:
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])


@pytest.mark.slow
def test_mlflow_loads_a_version_in_a_process_that_does_not_know_this_project(
    folders: dict[str, Path],
    client: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    from pipeline.registry.pyfunc import REQUIREMENTS

    source = source_of(client)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, str(source)],
        cwd=tmp_path / "runs",
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    answers, place, loaded = json.loads(done.stdout.splitlines()[-1])
    bundle = load_bundle(folders["a"])
    rows = [{"text": "a story"}, {"text": "another"}]
    ours = bundle.task.predict(bundle.model, bundle.tokenizer, rows, batch_size=16)
    assert [one["text"] for one in answers] == [one.text for one in ours]
    assert [one["confidence"] for one in answers] == pytest.approx([one.confidence for one in ours])
    assert Path(place).is_relative_to(source)
    ours_too = {name.partition(">")[0] for name in project_requirements()}
    assert ours_too & {*loaded} - {"scipy", "packaging", "psutil", "tqdm", "fastapi"} <= {*REQUIREMENTS}
    assert str(Path.cwd()) not in (source / "MLmodel").read_text()


def test_a_version_has_what_mlflow_asks_of_a_model(folders: dict[str, Path], client: Any) -> None:  # noqa: F811
    import mlflow
    import pandas as pd
    from mlflow.models import Model

    source = source_of(client)
    model = Model.load(str(source))
    assert model.signature.inputs.input_names() == ["text"]
    example = model.load_input_example(str(source))
    assert example.equals(pd.DataFrame([{"text": "Frieda the gardener has a yellow lantern."}]))
    assert f"mlflow=={mlflow.__version__}" in (source / "requirements.txt").read_text()
