"""Fine-tuning as a user does it: one bundle, every task; evaluate, predict, ask; and what is refused."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.tasks import finetuning_tasks
from pipeline.runs.bundle import load_bundle
from tests.e2e.conftest import QUICK, Outcome, files, labelled

Call = Callable[..., Outcome]
STORY = ("data.n_train_rows=200", "data.n_validation_rows=12")
FEW = (*STORY, "data.n_test_rows=12")
#: A model that has learnt nothing would write until it may no longer.
SHORT = {
    "translate": ("task.max_target_tokens=12",),
    "summarize": ("task.max_target_tokens=12",),
    "chat": ("task.max_reply_tokens=12",),
}


@pytest.fixture
def pretrained(run: Call) -> str:
    """The name of a small causal bundle."""
    done = run("pretrain", *QUICK, *STORY, "name=base", "tokenizer.vocab_size=600", "size.max_seq_len=256")
    assert done.code == 0, done.err
    return "base"


@pytest.mark.slow
@pytest.mark.parametrize("task", finetuning_tasks())
def test_one_causal_bundle_feeds_every_task_and_each_can_be_evaluated(
    run: Call, pretrained: str, task: str
) -> None:
    done = run("finetune", f"task={task}", *QUICK, *FEW, *SHORT.get(task, ()))
    assert done.code == 0, done.err
    bundle = Path(done.result["bundle"])
    provenance = json.loads((bundle / "provenance.json").read_text())
    assert provenance["parent"]["run"] == pretrained
    tested = {key: value for key, value in done.result["metrics"].items() if key.startswith("test/")}
    assert tested
    again = run("evaluate", f"task={task}", "tracking=off", *FEW, "trainer.batch_size=4")
    assert again.code == 0, again.err
    assert again.result["metrics"] == pytest.approx(tested, abs=1e-4)


@pytest.mark.slow
def test_a_bundle_of_another_task_or_architecture_is_refused_with_what_can_serve(
    run: Call, pretrained: str
) -> None:
    assert run("pretrain", "task=masked_lm", *QUICK, *STORY, "tokenizer=bytes", "name=reader").code == 0
    refused = run("finetune", "task=translate", *QUICK, "init_from=reader")
    assert refused.code == 2
    assert "is an Encoder, which this task does not support" in refused.error
    assert "EncoderDecoder or a Decoder" in refused.error or "EncoderDecoder or Decoder" in refused.error
    assert f"INIT={pretrained}" in refused.error
    wrong = run("evaluate", "task=classify", "tracking=off", f"bundle={pretrained}")
    assert wrong.code == 2
    assert "was trained for CausalLM" in wrong.error


@pytest.mark.slow
def test_rows_of_a_file_are_learnt_predicted_and_asked(
    run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = labelled(tmp_path / "train.jsonl")
    done = run("finetune", "task=classify", *QUICK, "init_from=none", "tokenizer=bytes", *files(train))
    assert done.code == 0, done.err
    assert {key.partition("/")[0] for key in done.result["metrics"]} == {"val"}
    assert "validation rows of files, on which the weights were selected" in " ".join(
        done.err.replace("│", "").split()
    )
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"sentence": "text number 3 is bad"}\n{"sentence": ""}\n')
    done = run("predict", "task=classify", f"input={rows}", "columns.text=sentence")
    assert done.code == 0, done.err
    answers = [json.loads(line) for line in (tmp_path / "rows.predictions.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in answers] == ["text number 3 is bad", ""]
    assert all(answer["prediction"]["text"] in ("good", "bad") for answer in answers)
    monkeypatch.setattr("sys.stdin", io.StringIO("text number 8 is good\n\n"))
    done = run("try", "task=classify")
    assert done.code == 0, done.err
    assert done.out.count("sure)") == 2


@pytest.mark.slow
def test_two_vocabularies_are_kept_from_training_to_answers_and_further_training(
    run: Call, tmp_path: Path
) -> None:
    words = ("task=translate", *QUICK, *FEW, *SHORT["translate"], "tokenizer.vocab_size=500")
    done = run("finetune", *words, "init_from=none", "name=mine", "task.separate_vocabularies=true")
    assert done.code == 0, done.err
    assert "500 tokens to read, 500 to write" in done.err
    tested = {key: value for key, value in done.result["metrics"].items() if key.startswith("test/")}
    bundle = load_bundle(Path("runs/mine/bundles/best"))
    assert bundle.tokenizer.has_own_target
    again = run("evaluate", "task=translate", "tracking=off", *FEW, "trainer.batch_size=4")
    assert again.code == 0, again.err
    assert again.result["metrics"] == pytest.approx(tested, abs=1e-4)
    further = run("finetune", *words[:-1], "init_from=mine", "name=further")
    assert further.code == 0, further.err
    assert load_bundle(Path("runs/further/bundles/best")).tokenizer.digest == bundle.tokenizer.digest
    (tmp_path / "runs/further/bundles/best/target_tokenizer.json").unlink()
    refused = run("evaluate", "task=translate", "tracking=off", *FEW, "bundle=further")
    assert refused.code == 2
    assert "target_tokenizer.json has changed since it was saved" in refused.error


def test_fine_tuning_needs_a_bundle_or_nothing(run: Call) -> None:
    refused = run("finetune", "task=classify", *QUICK)
    assert refused.code == 2
    assert "no finished pretraining bundle" in refused.error
    assert "INIT=none" in refused.error


@pytest.mark.parametrize(
    ("stage", "task", "command"),
    [("pretrain", "classify", "make finetune-classify"), ("finetune", "denoise", "make pretrain-denoise")],
)
def test_a_task_of_the_other_kind_is_refused_with_its_command(
    run: Call, stage: str, task: str, command: str
) -> None:
    refused = run(stage, f"task={task}", *QUICK)
    assert refused.code == 2
    assert command in refused.error
