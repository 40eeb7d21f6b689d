"""How fine-tuning goes: what is frozen, what is best, when it ends, and how it is stopped and resumed."""

import json
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from datamodules.corpus import Columns, Files
from modules.optim import AdamW
from pipeline.machine.options import TrainerOptions
from pipeline.runs.bundle import load_bundle
from pipeline.runs.record import BEGAN_WITH
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.finetuning import Prediction, Row, Score
from pipeline.training.callbacks.seeding import StepSeed
from tests.commands import pipeline_words
from tests.e2e.conftest import QUICK, Outcome, files

Tune = Callable[..., Outcome]


@pytest.fixture
def tune(run: Tune, small_bundle: Path) -> Tune:
    """Fine-tunes `base` to classify the rows of a file; the run is called `mine`."""
    words = ("finetune", "task=classify", *QUICK, *files("rows.jsonl"), "trainer.precision=fp32", "name=mine")
    return lambda *more: run(*words, *more)


def weights(run: str, bundle: str = "last") -> dict[str, torch.Tensor]:
    return load_file(f"runs/{run}/bundles/{bundle}/model.safetensors")


def record(run: str, file: str) -> dict[str, Any]:
    return dict(json.loads(Path(f"runs/{run}/{file}").read_text()))


def moved(run: str) -> set[str]:
    """Weights that differ from those of `base`, the head's aside."""
    before, after = weights("base", "best"), weights(run)
    return {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}


def interrupted(function: Callable[..., Any], *, at_call: int) -> Callable[..., Any]:
    """`function`, in whose call number `at_call` Ctrl-C is pressed."""
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*arguments, **options)

    return call


@pytest.mark.slow
def test_the_gain_over_training_from_scratch_is_told_after_its_command_was_run(tune: Tune, run: Tune) -> None:
    """The bundle is a Decoder, and without one a classifier is an Encoder: these are not compared."""
    assert tune("init_from=none", "tokenizer=bytes", "trainer.max_steps=3", "name=encoder").code == 0
    first = tune("trainer.max_steps=3").err
    assert "gain over training from scratch" not in first
    (line,) = [line for line in first.splitlines() if "INIT=none" in line]
    command = line.removeprefix("Baseline").partition("  trains from scratch")[0].strip()
    assert "model.backbone._target_=modules.transformer.Decoder" in command
    stage, *words = pipeline_words(shlex.split(command)[1:]) or []
    assert run(stage, *words, "tracking=off", "name=nothing").code == 0
    again = tune("trainer.max_steps=3", "name=again")
    assert "INIT=none" not in again.err
    before, after = (
        record(name, "bundles/best/metrics.json")["val/accuracy"] for name in ("nothing", "again")
    )
    told = f"{after - before:+.4f} accuracy (from scratch {before:.4f}, nothing)"
    assert told in " ".join(again.err.split())


@pytest.mark.slow
def test_every_weight_of_the_backbone_is_trained_unless_it_is_frozen(tune: Tune) -> None:
    assert tune("name=all").code == 0
    backbone = {name for name in weights("base", "best") if name.startswith("backbone.")}
    assert moved("all") == backbone
    assert tune("name=frozen", "freezing.frozen=backbone").code == 0
    assert moved("frozen") == set()
    assert weights("frozen").keys() - weights("base", "best").keys()  # the new head
    assert tune("name=most", "freezing.frozen=embedding").code == 0
    assert moved("most") == {name for name in backbone if ".layers." in name or ".norm." in name}


@pytest.mark.slow
def test_layers_are_unfrozen_one_by_one_from_the_top(tune: Tune) -> None:
    words = ("freezing.frozen=backbone", "freezing.unfreeze_every_steps=3")
    assert tune("name=first", *words, "trainer.max_steps=4").code == 0
    assert all("layers.1." in name or ".norm." in name for name in moved("first"))
    assert any("layers.1." in name for name in moved("first"))
    assert tune("name=second", *words, "trainer.max_steps=7").code == 0
    assert any("layers.0." in name for name in moved("second"))
    assert not any("embedding" in name for name in moved("second"))


@pytest.mark.slow
def test_lower_layers_learn_slower_where_that_is_asked_for(tune: Tune, monkeypatch: Any) -> None:
    built = []
    build = AdamW.build

    def kept(self: AdamW, model: Any) -> Any:
        built.append(build(self, model))
        return built[-1]

    monkeypatch.setattr(AdamW, "build", kept)
    assert tune("optimizer=adamw", "optimizer.layer_decay=0.5").code == 0
    rates = {group["name"]: group["initial_lr"] for group in built[0].param_groups}
    assert rates["matrices/03"] == 2 * rates["matrices/02"] == 4 * rates["matrices/01"]
    assert rates["embeddings/00"] == AdamW().rates["embeddings"] / 8
    refused = tune("optimizer.layer_decay=2.0", "name=other")
    assert refused.code == 2
    assert "layer_decay is 2.0; expected more than 0 and at most 1" in refused.error


@pytest.mark.slow
def test_epochs_become_steps_over_the_rows_that_there_are(tune: Tune) -> None:
    done = tune("trainer.max_epochs=1.5")
    assert done.code == 0, done.err
    n_rows = 76  # 80 rows, 4 of which are held out
    assert f"{n_rows} training rows" in done.err
    checkpoint = torch.load("runs/mine/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == -(-n_rows * 3 // 2 // 4)


@pytest.mark.slow
def test_a_curriculum_changes_what_is_learnt_and_its_share_is_of_the_steps(tune: Tune) -> None:
    for name, words in {"plain": (), "short": ("trainer.curriculum=0.5",)}.items():
        done = tune(f"name={name}", *words)
        assert done.code == 0, done.err
    plain, short = weights("plain"), weights("short")
    assert any(not torch.equal(plain[name], short[name]) for name in plain)
    assert TrainerOptions(max_steps=30, accumulate=2, curriculum=0.5).curriculum_batches == 30
    refused = tune("trainer.curriculum=1.5")
    assert refused.code == 2
    assert "trainer.curriculum" in refused.error


class Scores:
    """Stands in for the task's score at each validation of a training: one value after another."""

    def __init__(self, *values: float) -> None:
        self.values = values
        self.n_asked = 0

    def __call__(
        self,
        task: TextClassification,
        predictions: Sequence[Prediction],
        rows: Sequence[Row],
        *,
        intervals: bool = False,
    ) -> dict[str, Score]:
        if intervals:  # the measurement after training, of the best weights on the same rows
            return {"accuracy": Score(value=max(self.values[: self.n_asked]))}
        self.n_asked += 1
        return {"accuracy": Score(value=self.values[min(self.n_asked, len(self.values)) - 1])}

    def __get__(self, task: Any, kind: type | None = None) -> Any:
        return lambda *arguments, **options: self(task, *arguments, **options)


@pytest.mark.slow
def test_the_best_bundle_is_that_of_the_best_score_of_the_task(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextClassification, "score", Scores(0.5, 0.9, 0.7, 0.8, 0.2))
    done = tune("trainer.val_every_steps=4")
    assert done.code == 0, done.err
    assert record("mine", "bundles/best/provenance.json")["step"] == 8
    assert done.result["metrics"]["val/accuracy"] == pytest.approx(0.9)
    assert record("mine", "bundles/last/metrics.json")["val/accuracy"] == pytest.approx(0.2)


@pytest.mark.slow
def test_training_ends_when_the_score_of_the_task_no_longer_rises(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextClassification, "score", Scores(0.5, 0.8, 0.7, 0.7, 0.9))
    done = tune("trainer.val_every_steps=4", "trainer.patience=2")
    assert done.code == 0, done.err
    assert record("mine", "bundles/last/provenance.json")["step"] == 16
    assert record("mine", "bundles/best/provenance.json")["step"] == 8


@pytest.mark.parametrize(
    ("schedule", "end"), [pytest.param("wsd", 10, marks=pytest.mark.slow), ("linear", 8)]
)
def test_on_a_plateau_a_run_gets_its_decay_and_ends_as_a_run_of_so_many_steps(
    schedule: str, end: int, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"schedule={schedule}", "trainer.val_every_steps=2")
    with monkeypatch.context() as patch:
        patch.setattr(TextClassification, "score", Scores(0.5, 0.8, 0.7, 0.8, 0.9))
        done = tune(*words, "trainer.plateau=2", "schedule.warmup_steps=0")
    assert done.code == 0, done.err
    assert record("mine", "bundles/last/provenance.json")["step"] == end
    assert f"({end} of 20 steps)" in " ".join(done.err.split())
    if schedule == "wsd":
        assert tune(*words, f"trainer.max_steps={end}", "schedule.warmup_steps=0", "name=typed").code == 0
        same = [Path(f"runs/{run}/bundles/last/model.safetensors").read_bytes() for run in ("mine", "typed")]
        assert same[0] == same[1]


@pytest.mark.slow
def test_a_run_that_is_stopped_in_its_early_decay_ends_where_it_was_to_end(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextClassification, "score", Scores(0.5, 0.8, 0.7, 0.8, 0.9))
    words = ("trainer.val_every_steps=2", "trainer.plateau=2", "schedule.warmup_steps=0")
    hook = "on_train_batch_start"
    with monkeypatch.context() as patch:
        patch.setattr(StepSeed, hook, interrupted(getattr(StepSeed, hook), at_call=10))
        assert tune(*words).code == 130
    assert tune(*words, "resume=true", "name=null").code == 0
    assert record("mine", "bundles/last/provenance.json")["step"] == 10


@pytest.mark.slow
def test_the_score_of_the_task_is_that_of_the_averaged_weights_which_are_saved(tune: Tune) -> None:
    done = tune("trainer.ema_decay=0.999", "trainer.max_steps=10", "optimizer.lr=0.5")
    assert done.code == 0, done.err
    bundle = load_bundle(Path("runs/mine/bundles/best"))
    rows = held_out()
    answers = bundle.task.predict(bundle.model, bundle.tokenizer, rows, batch_size=4)
    score = bundle.task.score(answers, rows)["calibration_error"].value
    assert done.result["metrics"]["val/calibration_error"] == pytest.approx(score, abs=1e-5)


def held_out() -> list[Row]:
    """The rows that the run has validated on."""
    columns = {"text": "sentence", "label": "mood"}
    corpus = Files("rows.jsonl", columns=columns).load(Columns(("text", "label")))
    return list(corpus.validation)


@pytest.mark.slow
def test_answers_are_the_same_after_the_bundle_was_saved_and_loaded(
    tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[list[Prediction]] = []
    predict = TextClassification.predict

    def kept(self: TextClassification, *arguments: Any, **options: Any) -> list[Prediction]:
        answers.append(predict(self, *arguments, **options))
        return answers[-1]

    monkeypatch.setattr(TextClassification, "predict", kept)
    assert tune().code == 0
    bundle = load_bundle(Path("runs/mine/bundles/best"))
    rows = held_out()
    assert rows
    again = predict(bundle.task, bundle.model, bundle.tokenizer, rows, batch_size=4)
    assert again == answers[-1]


@pytest.mark.slow
def test_another_dropout_is_in_the_bundle_and_in_what_is_recorded(tune: Tune) -> None:
    assert tune("dropout=0.25").code == 0
    bundle = load_bundle(Path("runs/mine/bundles/best"))
    assert bundle.model_config["backbone"]["layer"]["dropout"] == 0.25
    assert bundle.config["model"]["backbone"]["layer"]["dropout"] == 0.25
    assert tune("name=without").code == 0
    assert any(not torch.equal(weight, weights("without")[name]) for name, weight in weights("mine").items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("freezing.frozen=backbone", "freezing.unfreeze_every_steps=3"),
        ("trainer.curriculum=0.6", "optimizer.layer_decay=0.8", "dropout=0.1", "trainer.ema_decay=0.9"),
    ],
)
def test_a_fine_tuning_that_ctrl_c_has_stopped_is_resumed_and_ends_as_if_it_had_not_been(
    words: tuple[str, ...], tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune("name=whole", *words)
    assert whole.code == 0, whole.err
    hook = "on_train_batch_start"
    with monkeypatch.context() as patch:
        patch.setattr(StepSeed, hook, interrupted(getattr(StepSeed, hook), at_call=7))
        stopped = tune(*words)
    assert stopped.code == 130
    assert "stopped by Ctrl-C after step 7 of 20, which was saved" in stopped.error
    assert record("mine", "run.json")["status"] == "KILLED"
    assert not Path("runs/mine/bundles").exists()

    resumed = tune(*words, "resume=true", "name=null")
    assert resumed.code == 0, resumed.err
    assert record("mine", "run.json")["status"] == "FINISHED"
    assert resumed.result["metrics"] == whole.result["metrics"]
    for bundle in ("best", "last"):
        files_ = [Path(f"runs/{run}/bundles/{bundle}/model.safetensors") for run in ("whole", "mine")]
        assert files_[0].read_bytes() == files_[1].read_bytes()


def test_ctrl_c_before_training_leaves_no_run(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextClassification, "check", interrupted(TextClassification.check, at_call=1))
    stopped = tune()
    assert stopped.code == 130
    assert stopped.error == "error: stopped by Ctrl-C; no incomplete files were left"
    assert [run.name for run in Path("runs").iterdir()] == ["base"]


@pytest.mark.slow
def test_a_run_is_not_resumed_from_another_bundle_that_became_the_newest(
    tune: Tune, run: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = "on_train_batch_start"
    with monkeypatch.context() as patch:
        patch.setattr(StepSeed, hook, interrupted(getattr(StepSeed, hook), at_call=7))
        assert tune().code == 130
    again = ("pretrain", *QUICK, "data=files", "data.train=my.txt", "init_from=base", "name=newer")
    assert run(*again, "trainer.max_steps=1").code == 0
    refused = tune("resume=mine", "init_from=newer")
    assert refused.code == 2
    assert 'runs/mine was started with init_from="runs/base/bundles/best", not "runs/newer' in refused.error
    resumed = run("finetune", "resume=mine")
    assert resumed.code == 0, resumed.err
    assert BEGAN_WITH not in record("mine", "run.json")["inputs"]
    assert record("mine", "run.json")["changes"] is None
