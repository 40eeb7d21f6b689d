"""Comparing runs as a user does it: real runs, the page, MLflow."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.tracking.options import Store
from pipeline.tracking.spool import Progress
from pipeline.tracking.store import open_client
from tests.e2e.conftest import Outcome

Call = Callable[..., Outcome]
QUICK = ("debug=quick", "tracking.system_metrics=false", "tracking.end_wait_s=600")
STORY = ("data.n_train_rows=200", "data.n_validation_rows=12")
SMALL = ("tokenizer.vocab_size=600", "size.max_seq_len=256")


@pytest.fixture
def runs(run: Call) -> Call:
    """Two pretrainings, and two fine-tunings, one of them from nothing."""
    for name, seed in (("first", 1), ("second", 2)):
        done = run("pretrain", *QUICK, *STORY, *SMALL, f"name={name}", f"seed={seed}")
        assert done.code == 0, done.err
    few = (*STORY, "data.n_test_rows=40", "tracking=off", "debug=quick")
    for name, more in (("tuned", ("init_from=first",)), ("raw", ("init_from=none", *SMALL))):
        done = run("finetune", "task=classify", *few, *more, f"name={name}")
        assert done.code == 0, done.err
    return run


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # of MLflow
def test_runs_are_compared_at_the_terminal_as_a_page_and_in_mlflow(runs: Call) -> None:
    done = runs("compare", "runs=[first,second]", "name=losses", "tracking.end_wait_s=600")
    assert done.code == 0, done.err
    assert "validation loss" in done.out
    assert "#/compare-runs?runs=" in done.err
    page = Path("runs/losses/compare.html").read_text(encoding="utf-8")
    assert "training loss" in page
    assert_it_is_in_mlflow(Path("runs/losses"))
    done = runs("compare", "runs=[last:2:classify]", "tracking=off", "output=tuned-or-raw.html")
    assert done.code == 0, done.err
    assert "the same 40 rows" in " ".join(done.out.replace("│", " ").split())
    assert done.result["metrics"]["p_value"] <= 1
    assert "was not tracked" in Path("tuned-or-raw.html").read_text(encoding="utf-8")
    refused = runs("compare", "runs=[first,tuned]", "tracking=off")
    assert refused.code == 2
    assert "first is pretrain causal_lm, tuned is finetune classify" in refused.error


def assert_it_is_in_mlflow(folder: Path) -> None:
    progress = Progress.load(folder / "tracking")
    client = open_client(Store(str(progress.uri), None))
    tags = client.get_run(str(progress.run_id)).data.tags
    compared = [Progress.load(Path("runs") / name / "tracking").run_id for name in ("first", "second")]
    assert tags["compared_run_ids"] == ",".join(map(str, compared))
    assert tags["stage"] == "compare"
    assert "nats per token" in tags["verdict"]
    assert [file.path for file in client.list_artifacts(str(progress.run_id)) if "compare" in file.path]
    client._tracking_client.store._dispose_engine()


def test_no_runs_named_an_unknown_one_and_a_page_that_cannot_be_written_are_refused(
    run: Call, tmp_path: Path
) -> None:
    refused = run("compare", "tracking=off")
    assert refused.code == 2
    assert "name runs, for example RUNS=" in refused.error
    refused = run("compare", "runs=[nobody,last:2]", "tracking=off")
    assert refused.code == 2
    assert "no run 'nobody'" in refused.error
    assert not (tmp_path / "runs").exists()
