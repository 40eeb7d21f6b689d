"""What a run says of itself: its whole configuration, whose bundle it measured, which texts stay at home."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.compare.comparison import compare_runs
from pipeline.compare.facts import read_facts
from pipeline.compare.select import select_runs
from tests.e2e.conftest import Outcome, files

Call = Callable[..., Outcome]
#: Spooled, and sent to a store that is not there: what would be in MLflow lies in the spool.
SPOOLED = ("tracking.uri=http://127.0.0.1:9", "tracking.end_wait_s=0.1", "tracking.system_metrics=false")


def recorded(run: str) -> dict[str, Any]:
    return dict(yaml.safe_load(Path(f"runs/{run}/config.yaml").read_text()))


def in_mlflow(run: str) -> dict[str, Path]:
    folder = Path(f"runs/{run}/tracking/files")
    return {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}


def last_tags(run: str) -> dict[str, str]:
    lines = Path(f"runs/{run}/tracking/points.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {key: value for record in records for key, value in record.get("tags", {}).items()}


def differing(*runs: str) -> dict[str, list[str]]:
    return dict(compare_runs([read_facts(run) for run in select_runs(runs, Path("runs"))]).settings)


@pytest.fixture
def classified(run: Call, small_bundle: Path) -> Call:
    """Two fine-tunings on a file, the same but for a default that is typed, and their evaluation."""
    words = ("task=classify", "debug=quick", *SPOOLED, *files("rows.jsonl"), "trainer.max_steps=4")
    for name, more in (("plain", ()), ("typed", ("optimizer.lr=0.004", "trainer.accumulate=1"))):
        done = run("finetune", *words, "init_from=base", f"name={name}", *more)
        assert done.code == 0, done.err
    done = run("evaluate", "task=classify", "bundle=plain", *SPOOLED, *files("rows.jsonl"), "name=measured")
    assert done.code == 0, done.err
    return run


@pytest.mark.slow
def test_a_run_tells_its_configuration_its_bundle_and_no_text(classified: Call) -> None:
    plain, typed = recorded("plain"), recorded("typed")
    assert plain["optimizer"]["lr"] == 0.004
    assert plain["trainer"]["batch_size"] == 4
    assert plain["task"]["dropout"] == 0.1
    assert plain["model"]["head"]["_target_"] == "modules.heads.PooledClassifier"
    assert plain["model"]["head"]["n_classes"] == 2
    assert {key for key in plain if plain[key] != typed[key]} == {"name"}
    params = json.loads(Path("runs/plain/tracking/points.jsonl").read_text().splitlines()[0])["params"]
    assert params["optimizer.lr"] == "0.004"
    assert (
        json.loads(Path("runs/plain/bundles/best/model.json").read_text())["backbone"]["layer"]["d_ff"]
        is None
    )

    measured = recorded("measured")
    assert measured["bundle"] == "runs/plain/bundles/best"
    note = last_tags("measured")["mlflow.note.content"]
    assert "The bundle `runs/plain/bundles/best` (TextClassification on Decoder; run `plain`, step " in note
    assert "max_steps" not in note.partition("```")[0]
    assert "trainer.max_steps" not in yaml.safe_load(in_mlflow("measured")["config.yaml"].read_text())

    for name in ("plain", "measured"):
        assert "text number" in Path(f"runs/{name}/samples.md").read_text()
        assert all(b"text number" not in file.read_bytes() for file in in_mlflow(name).values())
        assert "errors.md" in in_mlflow(name)

    assert differing("plain", "typed") == {}
    assert differing("plain", "measured").keys() == {"trainer.batch_size", "trainer.val_rows"}
    done = classified("compare", "runs=[plain,typed,measured]", "name=judged", *SPOOLED)
    assert done.code == 0, done.err
    page = Path("runs/judged/compare.html").read_text()
    assert "text number" in page
    for row in ("FLOPs of training (matrix products with weights)", "peak memory of the process"):
        assert row in page
    of_all = in_mlflow("judged")["compare.html"].read_text()
    assert "text number" not in of_all
    assert "Not shown: the texts of plain, typed and measured" in of_all
    note = last_tags("judged")["mlflow.note.content"]
    for text in ("plain", "typed", "do not differ significantly", "| finetune classify |", "accuracy"):
        assert text in note
