"""A bundle as the harness asks it: equal to the harness's own model on the exported folder, row by row."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from datamodules.storyworld import StoryWorld
from datamodules.tokenizer import ByteLevelBPE
from pipeline.config.model import build_model
from pipeline.errors import BundleError, ConfigError
from pipeline.harness.model import BundleLM
from pipeline.interop.export import export_bundle
from pipeline.runs.bundle import Bundle
from pipeline.tasks.causal_lm import CausalLM

N_ROWS = 200
TEXTS = [StoryWorld(languages={"en": 1}).row("test", i)["text"] for i in range(N_ROWS)]


def make_bundle(backbone: str = "Decoder") -> Bundle:
    """A bundle in memory, with random weights; its tokens are longer than a character."""
    torch.manual_seed(0)
    tokenizer = ByteLevelBPE(vocab_size=500).train(TEXTS)
    node = {
        "backbone": {
            "_target_": f"modules.transformer.{backbone}",
            "n_layers": 2,
            "max_seq_len": 64,
            "position": {"_target_": "modules.positions.Rotary"},
            "layer": {"_target_": "modules.layers.LayerSpec", "d_model": 32, "n_heads": 4},
        },
        "head": {"_target_": "modules.heads.LMHead"},
        "init": "default",
    }
    model = build_model(node, tokenizer).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm.weight" in name else 0.0, 0.25)
    return Bundle(
        folder=Path("bundle"), model=model, tokenizer=tokenizer, task=CausalLM(), model_config=node,
        task_config={}, config={}, provenance={"run": "made"}, metrics={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return make_bundle()


def asked(*arguments: Any, kind: str = "loglikelihood") -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0, metadata=("task", 0, 1))


def obvious(bundle: Bundle, ids: list[int], first: int) -> float:
    """Log-likelihood of the tokens from `first` on, one forward pass for each."""
    total = 0.0
    for end in range(first, len(ids)):
        begin = max(0, end - bundle.model.backbone.max_seq_len)
        with torch.no_grad():
            logits = bundle.model({"input_ids": torch.tensor([ids[begin:end]])})[0, -1]
        total += float(logits.log_softmax(-1)[ids[end]])
    return total


def test_a_batch_scores_each_continuation_as_one_token_after_the_other(bundle: Bundle) -> None:
    tokenizer = bundle.tokenizer
    pairs = [
        ("One morning, Ida", " the baker was"),
        ("", "Once"),
        ("In the", " end"),
        (TEXTS[0][:300].rpartition(" ")[0], ","),
    ]
    scores = BundleLM(bundle, batch_size=3).loglikelihood([asked(*pair) for pair in pairs])
    for (context, continuation), (nats, _) in zip(pairs, scores, strict=True):
        ids = [tokenizer.bos_id, *tokenizer.encode(context + continuation).tolist()]
        first = 1 + len(tokenizer.encode(context))
        assert nats == pytest.approx(obvious(bundle, ids, first), abs=1e-4)


def test_a_text_that_fits_begins_with_one_bos_and_each_of_its_tokens_counts_once(bundle: Bundle) -> None:
    tokenizer = bundle.tokenizer
    text = TEXTS[0][:60]
    (nats,) = BundleLM(bundle, batch_size=2).loglikelihood_rolling([asked(text)])
    assert nats == pytest.approx(
        obvious(bundle, [tokenizer.bos_id, *tokenizer.encode(text).tolist()], 1), abs=1e-4
    )


def test_where_the_last_token_lies_across_context_and_continuation_it_is_what_is_scored(
    bundle: Bundle,
) -> None:
    tokenizer = bundle.tokenizer
    text = next(text for text in (" lantern", " the", " and") if len(tokenizer.encode(text)) == 1)
    lm = BundleLM(bundle, batch_size=1)
    ((nats, _),) = lm.loglikelihood([asked(f"It was{text[:-1]}", text[-1])])
    ids = [tokenizer.bos_id, *tokenizer.encode(f"It was{text}").tolist()]
    assert nats == pytest.approx(obvious(bundle, ids, len(ids) - 1), abs=1e-4)


def test_a_continuation_longer_than_the_model_reads_counts_each_token_once_as_a_whole_text_does(
    bundle: Bundle,
) -> None:
    lm = BundleLM(bundle, batch_size=4)
    assert len(bundle.tokenizer.encode(TEXTS[0])) > 64
    ((nats, _),) = lm.loglikelihood([asked("", TEXTS[0])])
    assert [nats] == lm.loglikelihood_rolling([asked(TEXTS[0])])
    assert lm.loglikelihood_rolling([asked(""), asked(TEXTS[0])]) == [0.0, nats]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda lm: lm.generate_until([asked("a", {"max_gen_toks": 64})]), "asks to generate 64 tokens"),
        (lambda lm: lm.generate_until([asked("a", {"num_beams": 2, "max_gen_toks": 4})]), "num_beams=2"),
    ],
)
def test_what_the_model_cannot_do_is_refused(bundle: Bundle, call: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        call(BundleLM(bundle, batch_size=2))


def test_a_model_that_is_no_causal_language_model_is_refused() -> None:
    with pytest.raises(BundleError, match="a causal language model: a Decoder with an LMHead"):
        BundleLM(make_bundle("Encoder"), batch_size=2)


@pytest.mark.slow
def test_scores_and_texts_are_those_of_the_harness_own_model_on_the_exported_folder(
    bundle: Bundle, tmp_path: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    folder = str(export_bundle(bundle, tmp_path / "out").folder)
    ours = BundleLM(bundle, batch_size=16)
    # Its cache of logits takes those of other tokens where two rows part their common tokens differently.
    theirs, bare = (
        HFLM(
            pretrained=folder,
            batch_size=16,
            device="cpu",
            dtype="float32",
            add_bos_token=begins,
            logits_cache=False,
        )
        for begins in (None, False)
    )
    random = Random(0)
    cuts = [random.randrange(len(text) - 40) if i % 8 else 0 for i, text in enumerate(TEXTS)]
    pairs = [
        (text[:cut], text[cut : cut + random.randrange(1, 40)]) for text, cut in zip(TEXTS, cuts, strict=True)
    ]
    # Theirs fails where a token lies across so that nothing is left of the continuation.
    pairs = [pair for pair in pairs if not pair[0] or theirs._encode_pair(*pair)[1]]
    assert len(pairs) > 0.9 * N_ROWS
    for (nats, greedy), expected in zip(
        ours.loglikelihood([asked(*pair) for pair in pairs]),
        theirs.loglikelihood([asked(*pair) for pair in pairs], disable_tqdm=True),
        strict=True,
    ):
        assert (nats, greedy) == (pytest.approx(expected[0], abs=1e-4), expected[1])
    # With its <bos>, theirs would also score <bos> after <bos>.
    texts = [asked(" ".join(TEXTS[i : i + 1 + i % 3])) for i in range(20)]
    expected_rolling = bare.loglikelihood_rolling(texts, disable_tqdm=True)
    assert ours.loglikelihood_rolling(texts) == pytest.approx(expected_rolling, rel=1e-6)
    options = {"until": ["."], "max_gen_toks": 20, "do_sample": False}
    prompts = [asked(text[: 20 + 3 * i], dict(options)) for i, text in enumerate(TEXTS[:20])]
    assert ours.generate_until(prompts) == theirs.generate_until(prompts, disable_tqdm=True)
