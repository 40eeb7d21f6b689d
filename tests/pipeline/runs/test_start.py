"""What a fine-tuning starts from: which bundle is found, which is refused, and what is recorded of it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datamodules.tokenizer import Bytes
from modules.model import Model
from modules.transformer import Decoder, Encoder, EncoderDecoder
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.model import build_model
from pipeline.config.plain import to_plain
from pipeline.errors import BundleError
from pipeline.runs.bundle import save_bundle
from pipeline.runs.find import find_bundle
from pipeline.runs.finetuned import load_asked
from pipeline.runs.start import (
    completed,
    describe_start,
    find_start,
    load_same_architecture,
    load_start,
    new_model,
    with_architecture,
)

READERS, WRITERS = (Encoder, Decoder), (EncoderDecoder, Decoder)
Pretrained = Callable[..., Path]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def pretrained(runs: Path) -> Pretrained:
    """Writes a finished run of a task, each later than those before."""
    n_made = 0

    def make(
        task: str, name: str, *, stage: str = "pretrain", finished: bool = True, **recorded: str
    ) -> Path:
        nonlocal n_made
        n_made += 1
        config = compose("pretrain", ["debug=quick", "tokenizer=bytes", f"task={task}"])
        tokenizer = Bytes().train([])
        folder = runs / name / "bundles" / "best"
        torch.manual_seed(n_made)
        save_bundle(
            folder,
            model=build_model(to_plain(config.model), tokenizer),
            tokenizer=tokenizer,
            model_config=to_plain(config.model),
            task_config=to_plain(config.task),
            config=to_plain(config),
            provenance={"run": name, "step": 1, "tokenizer": tokenizer.digest},
            metrics={},
        )
        record = {"name": name, "stage": stage, "config_hash": "", "choices": {"task": task}}
        record |= {"created": f"2026-01-01T00:00:{n_made:02d}", **recorded}
        (runs / name / "run.json").write_text(json.dumps(record))
        if not finished:
            os.unlink(folder / "DONE")
        return folder

    return make


def test_nothing_is_started_from_where_that_is_asked_for(runs: Path) -> None:
    assert find_start("none", runs, READERS) is None


@pytest.mark.parametrize("spec", [None, "latest"])
def test_the_newest_bundle_that_fits_is_found(spec: str | None, runs: Path, pretrained: Pretrained) -> None:
    pretrained("masked_lm", "older")
    reader = pretrained("masked_lm", "reader")
    both = pretrained("denoise", "both")
    assert find_start(spec, runs, READERS) == reader
    assert find_start(spec, runs, WRITERS) == both


def test_the_best_kind_comes_before_the_newest_and_what_is_newer_is_named(
    runs: Path, pretrained: Pretrained, capsys: pytest.CaptureFixture[str]
) -> None:
    both = pretrained("denoise", "both")
    pretrained("causal_lm", "newer")
    assert find_start(None, runs, WRITERS) == both
    assert "skipped: newer (a Decoder)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trial_of_a_sweep_is_taken_only_where_there_is_nothing_else_of_its_kind(
    runs: Path, pretrained: Pretrained, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pretrained("causal_lm", "first", sweep_id="s1")
    assert find_start(None, runs, WRITERS) == first
    good = pretrained("causal_lm", "good")
    for number in range(5):
        pretrained("causal_lm", f"t{number}", sweep_id="s2")
    assert find_start(None, runs, WRITERS) == good
    assert find_bundle("latest", runs) == good
    shown = " ".join(capsys.readouterr().err.split())
    assert "skipped: t4 (a trial of sweep s2), t3 (a trial of sweep s2), " in shown
    assert "and 2 more" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "taken"),
    [(["One sunny morning"], "writer"), (["The <mask> is in the garden."], "filler"), (None, "writer")],
)
def test_generate_takes_a_bundle_that_does_what_the_prompts_ask_for(
    prompts: list[str] | None, taken: str, runs: Path, pretrained: Pretrained
) -> None:
    for task, name in (("denoise", "filler"), ("causal_lm", "writer"), ("masked_lm", "filler-2")):
        if name != "filler-2" or taken == "writer":
            pretrained(task, name)
    given = [] if prompts is None else [f"prompts={prompts}"]
    assert load_asked(compose("generate", [f"runs_dir={runs}", *given])).folder.parent.parent.name == taken


@pytest.mark.slow
def test_pretraining_goes_on_from_the_newest_bundle_of_its_own_architecture(
    runs: Path, pretrained: Pretrained
) -> None:
    own = pretrained("causal_lm", "own")
    pretrained("denoise", "other")
    config = compose("pretrain", [f"runs_dir={runs}", "init_from=latest"])
    assert load_same_architecture(config).folder == own


def test_unfinished_bundles_and_those_of_other_stages_are_passed_over(
    runs: Path, pretrained: Pretrained
) -> None:
    good = pretrained("causal_lm", "good")
    pretrained("causal_lm", "tuned", stage="finetune")
    pretrained("causal_lm", "half", finished=False)
    assert find_start(None, runs, READERS) == good


def test_a_bundle_can_be_named_by_its_run_or_folder_whatever_is_newer(
    runs: Path, pretrained: Pretrained
) -> None:
    named = pretrained("causal_lm", "named")
    pretrained("causal_lm", "newer")
    for spec in ("named", str(runs / "named"), str(named)):
        assert find_start(spec, runs, READERS) == named


def test_without_any_bundle_that_fits_it_is_said_what_to_do(runs: Path, pretrained: Pretrained) -> None:
    pretrained("denoise", "other")
    with pytest.raises(
        BundleError, match=r"(?s)no finished pretraining bundle with an Encoder or Decoder .*INIT=none"
    ):
        find_start(None, runs, READERS)


def test_an_architecture_that_is_not_supported_is_refused_with_a_bundle_that_is(
    runs: Path, pretrained: Pretrained
) -> None:
    pretrained("masked_lm", "reader")
    with pytest.raises(
        BundleError,
        match=r"(?s)reader.* is an Encoder, .*EncoderDecoder or Decoder.* pretrain one .*or use INIT=none",
    ):
        find_start("reader", runs, WRITERS)
    pretrained("causal_lm", "imported", stage="import")
    with pytest.raises(BundleError, match=r"(?s)is an Encoder.*use INIT=imported"):
        find_start("reader", runs, WRITERS)
    pretrained("causal_lm", "writer")
    with pytest.raises(BundleError, match=r"(?s)is an Encoder.*use INIT=writer"):
        find_start("reader", runs, WRITERS)


def test_an_unfinished_bundle_is_refused_by_name(runs: Path, pretrained: Pretrained) -> None:
    pretrained("causal_lm", "half", finished=False)
    with pytest.raises(BundleError, match=r"(?s)half.* is not a finished bundle"):
        find_start("half", runs, READERS)


def test_model_tokenizer_and_folder_of_the_bundle_are_recorded(pretrained: Pretrained) -> None:
    folder = pretrained("causal_lm", "base")
    config = compose("finetune", ["task=classify"])
    start = load_start(config, folder)
    made = completed(config, start, model=start.model_config)
    assert to_plain(made.model) == start.model_config
    assert made.choices.tokenizer == "bytes"
    assert made.init_from == str(folder)
    assert made.choices.task == "classify"


def test_another_dropout_goes_into_every_layer_and_changes_no_weight(pretrained: Pretrained) -> None:
    folder = pretrained("causal_lm", "base")
    plain = load_start(compose("finetune", ["task=classify"]), folder)
    config = compose("finetune", ["task=classify", "dropout=0.25"])
    dropped = load_start(config, folder)
    assert dropped.model_config["backbone"]["layer"]["dropout"] == 0.25
    assert completed(config, dropped, model=dropped.model_config).model.backbone.layer.dropout == 0.25
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, dropped.model.state_dict()[name]), name
    batch = {"input_ids": torch.arange(8).reshape(1, 8)}
    assert torch.equal(plain.model(batch), dropped.model(batch))
    dropped.model.train()
    assert not torch.equal(plain.model(batch), dropped.model(batch))
    plain.model.train()
    assert torch.equal(plain.model(batch), plain.model.eval()(batch))


def test_a_decoder_becomes_an_encoder_with_the_same_weights_and_sees_what_follows(
    pretrained: Pretrained,
) -> None:
    config = compose("finetune", ["task=qa"])
    start = load_start(config, pretrained("causal_lm", "base"))
    made = with_architecture(start, Encoder, {})
    assert isinstance(made.model.backbone, Encoder)
    assert made.model_config["backbone"]["_target_"] == "modules.transformer.Encoder"
    for name, weight in start.model.state_dict().items():
        assert torch.equal(weight, made.model.state_dict()[name]), name
    first, second = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 5]])

    def first_state(model: Model, ids: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = model.backbone({"input_ids": ids})
        return hidden[0, 0]

    assert torch.equal(first_state(start.model, first), first_state(start.model, second))
    assert not torch.equal(first_state(made.model, first), first_state(made.model, second))
    assert with_architecture(start, Decoder, {}) is start


def test_types_of_tokens_that_a_bundle_lacks_are_as_large_as_its_embeddings(
    pretrained: Pretrained,
) -> None:
    start = load_start(compose("finetune", ["task=qa"]), pretrained("masked_lm", "base"))
    made = with_architecture(start, Encoder, {"n_token_types": 1})
    assert made.model_config["backbone"]["n_token_types"] == 1
    types, embeddings = made.model.backbone.type_embedding.weight, start.model.backbone.embedding.weight
    torch.testing.assert_close(types.square().mean(), embeddings.square().mean())
    batch = {"input_ids": torch.tensor([[1, 2, 3, 4]])}
    assert torch.equal(made.model.backbone(batch), start.model.backbone(batch))
    typed = batch | {"token_type_ids": torch.tensor([[0, 1, 0, 1]])}
    assert not torch.equal(made.model.backbone(typed), start.model.backbone(batch))
    torch.rand(1)
    again = with_architecture(start, Encoder, {"n_token_types": 1}).model.backbone.type_embedding.weight
    assert torch.equal(again, types)
    assert with_architecture(made, Encoder, {"n_token_types": 1}) is made


def test_a_start_from_nothing_takes_the_dropout_into_its_model() -> None:
    config = compose("finetune", ["task=classify", "init_from=none", "dropout=0.25"])
    assert config.model.backbone.layer.dropout == 0.0
    assert new_model(config, {})["backbone"]["layer"]["dropout"] == 0.25
    without = compose("finetune", ["task=classify", "init_from=none"])
    assert completed(without, None, model=new_model(without, {})) == without
    assert new_model(without, {"n_token_types": 1})["backbone"]["n_token_types"] == 1


@pytest.mark.slow
def test_a_tokenizer_file_beside_a_bundle_must_be_the_tokenizer_of_the_bundle(
    pretrained: Pretrained, tmp_path: Path
) -> None:
    folder = pretrained("causal_lm", "base")
    words = ["task=classify", "tokenizer=file", "init_from=base"]
    same = compose("finetune", [*words, f"tokenizer.path={folder / 'tokenizer.json'}"])
    start = load_start(same, folder)
    other = construct(compose("pretrain", ["tokenizer.vocab_size=300"]).tokenizer)
    made = other.train(["some words, and some more words " * 20] * 30)
    made.save(tmp_path / "other.json")
    with pytest.raises(BundleError, match="is not the tokenizer of") as caught:
        load_start(compose("finetune", [*words, f"tokenizer.path={tmp_path / 'other.json'}"]), folder)
    assert made.digest in str(caught.value)
    assert start.tokenizer.digest in str(caught.value)


def test_it_is_said_what_is_started_from_and_why(pretrained: Pretrained) -> None:
    start = load_start(compose("finetune", ["task=classify"]), pretrained("masked_lm", "base"))
    assert "the newest pretraining bundle that fits: an Encoder" in describe_start(start, None)
    assert "named by INIT" in describe_start(start, "base")
    assert describe_start(None, "none") == "from scratch (INIT=none)"
