"""Write a tokenizer as files for `transformers`: vocabulary, special tokens and chat template."""

import json
from pathlib import Path
from typing import Any

from datamodules.tokenizer import ForeignTokenizer, Tokenizer
from pipeline.output import write_whole

#: The name of each special token in `transformers`.
_ROLES = {
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
    "sep_token": "<sep>",
    "cls_token": "<cls>",
}

#: A dialogue as `pipeline.tasks.turns` lays it out: `<bos><user>text<assistant>reply<eos><user>...`.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)

#: The same with the marks of ChatML, as imported models are trained here: without a default instruction.
CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, frame: tuple[bool, bool], chat: bool) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`.

    Args:
        tokenizer: the tokenizer of the bundle.
        folder: an existing folder.
        frame: whether a text is read after `<bos>`, and whether before `<eos>`, as in training.
        chat: whether the model replies in dialogues.
    """
    if isinstance(tokenizer, ForeignTokenizer):
        _write_foreign(tokenizer, folder, chat=chat)
        return
    engine: dict[str, Any] = json.loads(tokenizer.to_json())
    engine["post_processor"] = _template(tokenizer, *frame)
    write_whole(folder / "tokenizer.json", json.dumps(engine, ensure_ascii=False, indent=2))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_ROLES,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if chat:
        settings["chat_template"] = CHAT_TEMPLATE
    write_whole(folder / "tokenizer_config.json", json.dumps(settings, ensure_ascii=False, indent=2))


def _write_foreign(tokenizer: ForeignTokenizer, folder: Path, *, chat: bool) -> None:
    """Write an imported tokenizer with its own special tokens and chat template.

    A model that was trained here to reply with ChatML gets the template of that training.
    """
    write_whole(folder / "tokenizer.json", tokenizer.to_json())
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": token for role, token in tokenizer.special.roles.items()},
        "clean_up_tokenization_spaces": False,
    }
    if chat and tokenizer.has_chatml:
        settings["chat_template"] = tokenizer.decode(tokenizer.frame[0], keep_special=True) + CHATML_TEMPLATE
    elif tokenizer.special.chat_template is not None:
        settings["chat_template"] = tokenizer.special.chat_template
    write_whole(folder / "tokenizer_config.json", json.dumps(settings, ensure_ascii=False, indent=2))


def _template(tokenizer: Tokenizer, begin: bool, end: bool) -> dict[str, Any]:
    """Return a post-processor of the `tokenizers` library that adds special tokens around a text."""
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    used = {}
    if begin:
        single.insert(0, {"SpecialToken": {"id": "<bos>", "type_id": 0}})
        used["<bos>"] = tokenizer.bos_id
    if end:
        single.append({"SpecialToken": {"id": "<eos>", "type_id": 0}})
        used["<eos>"] = tokenizer.eos_id
    second = [{"Sequence": {"id": "B", "type_id": 0}}]
    special = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in used.items()}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *second],
        "special_tokens": special,
    }
