"""Small folders as Hugging Face's libraries write them."""

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

SPECIAL = ("<pad>", "<s>", "</s>", "<mask>")
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def save_tokenizer(folder: Path, *, n_more: int = 0) -> int:
    """A tokenizer of bytes with its files; gives how many tokens it has."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIAL, *alphabet, *(f"more{i}" for i in range(n_more))]
    engine = tokenizers.Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in SPECIAL])
    engine.enable_truncation(8)
    engine.save(str(folder / "tokenizer.json"))
    end = {"__type": "AddedToken", "content": "</s>"}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": end,
        "pad_token": "<pad>", "mask_token": "<mask>", "chat_template": TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(pieces)


def save_llama(folder: Path, *, shard: str = "5GB", **options: Any) -> transformers.LlamaForCausalLM:
    """A decoder of random weights, with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": save_tokenizer(folder), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **options})).eval()
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def save_bert(folder: Path, model: type[transformers.PreTrainedModel]) -> transformers.PreTrainedModel:
    """An encoder of random weights, with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=save_tokenizer(folder), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    made = model(config).eval()
    made.save_pretrained(folder)
    return made
