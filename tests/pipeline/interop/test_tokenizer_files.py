"""An exported tokenizer lays a dialogue out as in training."""

from pathlib import Path

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors

from datamodules.tokenizer import ForeignTokenizer
from datamodules.tokenizer.foreign import SpecialTokens
from pipeline.interop.tokenizer_files import write_tokenizer
from pipeline.tasks.turns import Stream, turns_of

OWN = "{{ 'You are a helpful model.' }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
MARKS = ["<|im_start|>", "<|im_end|>", "<s>"]
TURNS = [
    {"role": "user", "text": "Where is Anna?"},
    {"role": "assistant", "text": "In Riga."},
    {"role": "user", "text": "Since when?"},
]


def chatml(*, has_start: bool) -> ForeignTokenizer:
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *MARKS]
    engine = tokenizers.Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    engine.pre_tokenizer, engine.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    engine.add_special_tokens(MARKS)
    if has_start:
        engine.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", pieces.index("<s>"))]
        )
    return ForeignTokenizer(engine, SpecialTokens(roles={"eos": "<|im_end|>"}, chat_template=OWN))


@pytest.mark.parametrize("has_start", [False, True])
def test_a_model_trained_here_on_chatml_is_asked_as_in_training(tmp_path: Path, has_start: bool) -> None:
    tokenizer = chatml(has_start=has_start)
    write_tokenizer(tokenizer, tmp_path, frame=(True, False), chat=True)
    expected = Stream.of(turns_of({"turns": TURNS}, "row"), tokenizer, limit=500)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": turn["role"], "content": turn["text"]} for turn in TURNS]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == expected.prompt(tokenizer, limit=500, reserve=10)


def test_a_model_that_was_not_trained_for_dialogue_keeps_its_own_template(tmp_path: Path) -> None:
    write_tokenizer(chatml(has_start=False), tmp_path, frame=(True, False), chat=False)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template == OWN
