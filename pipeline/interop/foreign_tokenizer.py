"""Read the tokenizer of a Hugging Face model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from datamodules.tokenizer import ForeignTokenizer, SpecialTokens
from datamodules.tokenizer.special import ROLES
from pipeline.errors import InteropError
from pipeline.interop.checkpoint import Checkpoint, read_object

#: An embedding may be padded with unused rows, fewer than 1,024, to a multiple of 64.
_MULTIPLE, _MOST_UNUSED = 64, 1024


def read_tokenizer(checkpoint: Checkpoint, n_rows: int) -> ForeignTokenizer:
    """Return the tokenizer next to the weights, for an embedding of `n_rows`.

    Raises:
        InteropError: there is no tokenizer.json, or its size does not match the embedding.
        TokenizerError: the tokenizer cannot be read.
    """
    engine, settings = _from_gguf(checkpoint) if checkpoint.gguf else _from_folder(checkpoint.folder)
    n_tokens = max(engine.get_vocab(with_added_tokens=True).values()) + 1
    unused = n_rows - n_tokens
    if unused and (unused < 0 or unused >= _MOST_UNUSED or n_rows % _MULTIPLE):
        raise InteropError(
            f"the tokenizer has {n_tokens:,} tokens, but the embedding has {n_rows:,} rows",
            "a row for each token, with unused rows only as padding to a multiple of 64",
            "use tokenizer.json and weights of the same model",
        )
    config = checkpoint.config
    roles = {role: text for role in ROLES if (text := _text(settings.get(f"{role}_token"))) is not None}
    for role in ROLES:
        text = _token(engine, config.get(f"{role}_token_id"))
        if role not in roles and text is not None:
            roles[role] = text
    special = SpecialTokens(
        roles=roles,
        start=_token(engine, config.get("decoder_start_token_id")),
        n_rows=n_rows,
        chat_template=_template(settings.get("chat_template")),
    )
    return ForeignTokenizer(engine, special)


def _from_folder(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise InteropError(
            f"{folder} has no tokenizer.json",
            "the tokenizer in the format of the tokenizers library",
            'convert it: python -c "import transformers; '
            f"transformers.AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}')\"",
        )
    try:
        engine = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises a bare Exception for any invalid content
        raise InteropError(
            f"{file} cannot be read ({' '.join(str(error).split())[:200]})",
            "a file of the tokenizers library",
            "download it again",
        ) from error
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings |= read_object(folder / name, "a JSON object")
    if (template := folder / "chat_template.jinja").is_file():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    return engine, settings


def _from_gguf(checkpoint: Checkpoint) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(str(checkpoint.folder), gguf_file=checkpoint.gguf)
    engine = tokenizers.Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    return engine, {**theirs.special_tokens_map, "chat_template": theirs.chat_template}


def _text(token: Any) -> str | None:
    """Return the text of a token, which is stored as a string or as an object."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _token(engine: tokenizers.Tokenizer, number: Any) -> str | None:
    """Return the token with this id, or with the first id of a list; None if there is none."""
    first = number[0] if isinstance(number, list) and number else number
    known = isinstance(first, int) and not isinstance(first, bool) and first >= 0
    return engine.id_to_token(first) if known else None


def _template(stored: Any) -> str | None:
    """Return the chat template; of several, the one named `default`."""
    if isinstance(stored, list):
        named = {str(each.get("name")): each.get("template") for each in stored if isinstance(each, Mapping)}
        stored = named.get("default")
    return stored if isinstance(stored, str) else None
