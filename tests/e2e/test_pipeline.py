"""`make pipeline` and `make why` as a user calls them: everything, nothing, one key, damage, a stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.lineage import trace
from pipeline.runs import bundle
from pipeline.runs.folders import list_runs
from pipeline.tracking.options import Store
from pipeline.tracking.spool import Progress
from pipeline.tracking.store import open_client
from tests.commands import ROOT
from tests.e2e.conftest import Outcome
from tests.waiting import LIMIT_S, wait_until

Call = Callable[..., Outcome]

SMALL = (
    *("debug=quick", "tokenizer.vocab_size=600", "size.max_seq_len=256", "trainer.max_steps=4"),
    *("data.n_train_rows=60", "data.n_validation_rows=12", "finetune.trainer.score_rows=4"),
    *("finetune.data.n_train_rows=200", "finetune.data.n_validation_rows=12", "finetune.data.n_test_rows=20"),
)
ONE_TASK = ("tasks=[classify]", *SMALL, "tracking=off")
STEPS = ["tokenizer", "pretrain", "finetune-classify", "evaluate-classify"]


def ran(outcome: Outcome) -> list[str]:
    """The steps that were not kept."""
    assert outcome.code == 0, outcome.err
    return [step["step"] for step in outcome.result["steps"] if step["how"] != "kept"]


@pytest.mark.slow
def test_only_what_is_not_there_runs_and_what_depends_on_it(run: Call) -> None:
    first = run("pipeline", *ONE_TASK)
    assert ran(first) == STEPS
    assert [line.split()[1] for line in first.err.splitlines() if line.startswith("Step ")] == [
        f"{number}/4" for number in (1, 2, 3, 4)
    ]
    again = run("pipeline", *ONE_TASK)
    assert ran(again) == []
    assert again.err.count("nothing to do: identical inputs") == 5

    changed = (*ONE_TASK, "finetune-classify.trainer.max_steps=6")
    why = run("why", *changed, "step=finetune-classify")
    assert why.result["differences"] == {"finetune-classify": {"trainer.max_steps": ["4", "6"]}}
    assert "these inputs differ" in why.out
    assert "finetune-classify has to run first" in run("why", *changed, "step=evaluate-classify").out
    assert ran(run("pipeline", *changed)) == STEPS[2:]
    assert "no input differs" in run("why", *ONE_TASK, "step=pretrain").out

    pretrained = next(step["run"] for step in first.result["steps"] if step["step"] == "pretrain")
    weights = Path("runs") / pretrained / "bundles" / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = run("pipeline", *ONE_TASK)
    assert ran(damaged) == STEPS[1:]
    assert "has changed since it was saved" in " ".join(damaged.err.split())
    shutil.rmtree(Path("runs") / damaged.result["steps"][3]["run"])
    assert ran(run("pipeline", *ONE_TASK)) == STEPS[3:]


@pytest.mark.slow
def test_stages_called_alone_are_steps_that_are_done(run: Call) -> None:
    tokenizer = [word for word in SMALL if word.split(".")[0] in ("tokenizer", "data")]
    backbone = [word for word in SMALL if not word.startswith("finetune.")]
    assert run("tokenizer", *tokenizer, "tracking=off", "name=words").code == 0
    assert run("pretrain", *backbone, "tracking=off", "name=base").code == 0
    tuned = [word.removeprefix("finetune.") for word in SMALL if word.startswith("finetune.")]
    more = ("debug=quick", "trainer.max_steps=4", "tracking=off", "name=mine")
    assert run("finetune", "task=classify", *tuned, *more).code == 0
    assert ran(run("pipeline", *ONE_TASK)) == STEPS[3:]
    node = trace(Path("runs/base/bundles/best"), runs_dir=Path("runs"), cache_dir=Path(".cache"))
    assert [part.facts.get("made by") for part in node.walk() if part.kind == "tokenizer"] == ["words"]


@pytest.mark.slow
def test_ctrl_c_stops_the_step_after_a_checkpoint_and_the_next_call_goes_on(run: Call) -> None:
    long = (*ONE_TASK, "pretrain.trainer.max_steps=150", "pretrain.trainer.checkpoint_every_steps=5")
    command = [sys.executable, "-m", "pipeline", "pipeline", *long]
    with Path("stopped.log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=log)
        saved = lambda: list(Path("runs").glob("pretrain-*/checkpoints/last.ckpt"))  # noqa: E731
        wait_until(saved, "pretraining has saved a checkpoint", process=process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=LIMIT_S) == 128 + signal.SIGINT
    said = Path("stopped.log").read_text()
    assert "the pipeline was stopped by Ctrl-C in step 2/4 pretrain" in said.splitlines()[-2]
    assert "resumes from its checkpoint" in said.splitlines()[-1]
    (killed,) = [one for one in list_runs(Path("runs")) if one.is_of("pretrain")]
    assert killed.record.status == "KILLED"
    assert "will be resumed" in " ".join(run("why", *long, "step=pretrain").out.split())
    done = run("pipeline", *long)
    assert [step["how"] for step in done.result["steps"]] == ["kept", "resumed", "ran", "ran"]
    assert done.result["steps"][1]["run"] == killed.name


@pytest.mark.slow
def test_a_step_that_fails_ends_the_pipeline_and_leaves_the_others_finished(run: Call) -> None:
    outcome = run(
        "pipeline",
        *ONE_TASK,
        "evaluate-classify.data.n_test_rows=1",
        "finetune.optimizer.lr=nan",
    )
    assert outcome.code == 2
    assert "step 3/4 finetune-classify failed with exit code 2" in outcome.err.splitlines()[-2]
    assert "finished steps are kept" in outcome.err.splitlines()[-1]
    assert [one.record.status for one in list_runs(Path("runs"))] == ["FAILED", "FINISHED", "FINISHED"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # of MLflow
def test_runs_of_a_pipeline_are_siblings_in_mlflow_and_registered_once(run: Call) -> None:
    words = ("tasks=[classify]", *SMALL, "tracking.system_metrics=false", "tracking.end_wait_s=600")
    first = run("pipeline", *words, "pipeline_id=one")
    assert ran(first) == [*STEPS, "register-classify"]
    assert "searchFilter=attributes.run_id" in first.err
    assert ran(run("pipeline", *words)) == []
    changed = run("pipeline", *words, "evaluate.trainer.batch_size=5", "pipeline_id=two")
    assert ran(changed) == ["evaluate-classify"]
    names = [step["run"] for step in changed.result["steps"][:4]]
    known = [Progress.load(Path("runs") / name / "tracking") for name in names]
    client = open_client(Store(str(known[0].uri), None))
    tags = [client.get_run(str(one.run_id)).data.tags for one in known]
    assert [tag["pipeline_id"] for tag in tags] == ["two"] * 4
    assert not [tag for tag in tags if "mlflow.parentRunId" in tag]
    assert tags[1]["tokenizer_run_id"] == known[0].run_id
    (version,) = client.search_model_versions("name = 'prelude-classify'")
    client.delete_model_version("prelude-classify", version.version)
    client._tracking_client.store._dispose_engine()
    gone = run("pipeline", *words, "evaluate.trainer.batch_size=5")
    assert ran(gone) == ["register-classify"]
    assert "no longer has a version of this bundle" in " ".join(gone.err.split())


@pytest.mark.slow
def test_where_the_server_is_away_all_is_trained_and_the_registrations_fail_at_the_end(run: Call) -> None:
    away = ("tracking.uri=http://127.0.0.1:9", "tracking.system_metrics=false", "tracking.end_wait_s=0")
    outcome = run("pipeline", "tasks=[classify,qa]", *SMALL, *away)
    assert outcome.code == 2
    last = "error: register-classify, register-qa failed; all other steps are done"
    assert outcome.err.splitlines()[-2].startswith(last)
    assert outcome.err.count("error: http://127.0.0.1:9 does not respond") == 2
    assert "6 of 8 steps ran" in outcome.err
    ended = [(one.record.stage, one.record.status) for one in reversed(list_runs(Path("runs")))]
    trained = ("tokenizer", "pretrain", "finetune", "evaluate", "finetune", "evaluate")
    assert ended == [*((stage, "FINISHED") for stage in trained), *[("register", "FAILED")] * 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tasks=[classify,qq]"], "tasks contains the unknown task qq; expected some of chat, classify"),
        (["tasks=[qa,qa]"], "tasks contains a task twice"),
        (["tasks=[]"], "tasks is empty"),
        (["trainr.max_steps=3"], "did you mean trainer.max_steps?"),
        (["trainer.max_stpes=3"], "did you mean max_steps?"),
        (["finetune-qu.trainer.max_steps=3"], "did you mean finetune-qa?"),
        (["finetune-qa.packing=whole"], "finetune-qa takes no such key"),
        (["finetune-qa.size=small"], "finetune-qa: size is given, and init_from is not none"),
        (["finetune-qa.init_from=none"], "each step reads the bundle of the step before it"),
        (["resume=true"], "an unfinished step is resumed automatically"),
        (["bundle=latest"], "each step reads the bundle of the step before it"),
        (["name=x"], "pipeline_id=NAME"),
        (["finetune.name=x"], "STEP.name=NAME"),
        (["pretrain.runs_dir=x"], "give runs_dir=x for all steps"),
        (["task=qa"], "task=qa learns from labelled rows"),
        (["data=files", "data.train=nowhere.txt"], "nowhere.txt"),
        (["finetune-qa"], "is not an override"),
        (["size=huge"], "size=huge: no such option"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(run: Call, words: list[str], says: str) -> None:
    outcome = run("pipeline", *words, "tracking=off")
    assert outcome.code == 2
    assert says in outcome.error
    assert not Path("runs").exists()


@pytest.mark.slow
def test_why_answers_an_unknown_step_and_one_that_has_never_been_run(run: Call) -> None:
    assert "step=finetune-qu: the pipeline has no such step" in run("why", "step=finetune-qu").error
    never = run("why", "step=finetune-qa", "tracking=off")
    assert never.code == 0
    assert "pretrain: it has never finished" in never.out
    assert "finetune-qa: pretrain has to run first" in never.out
    assert json.loads(never.out.splitlines()[-1])["reasons"]["finetune-qa"] == "pretrain runs first"
    assert bundle.DONE not in os.listdir()
