"""Build the model that a configuration describes, and check early that it can be built."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from datamodules.tokenizer import Tokenizer
from modules.init import initialize
from modules.meta import on_meta_device
from modules.model import Model
from modules.transformer import Transformer
from pipeline.config.construct import class_of, construct
from pipeline.config.plain import Config, to_plain
from pipeline.errors import ConfigError

#: Bounds of the tokens in a row: room for <bos>, two tokens and <eos>; segment ids that fit in 16 bits.
MIN_SEQ_LEN, MAX_SEQ_LEN = 4, 2**16 - 2


def check_values(config: Config) -> None:
    """Build everything that is cheap to build, so that impossible values are found before any data is read.

    Raises:
        ConfigError: when a class refuses a value.
    """
    for key in config:
        node = to_plain(config[key])
        if isinstance(node, Mapping) and "_target_" in node:
            construct(node)
    if "model" in config:
        check_model(config)


def check_model(config: Config) -> None:
    """Build the model on the meta device, so that impossible sizes are found before any data is read.

    Raises:
        ConfigError: for an impossible size, or rows that are too short or too long to be packed.
    """
    max_seq_len = int(config.model.backbone.max_seq_len)
    if not MIN_SEQ_LEN <= max_seq_len <= MAX_SEQ_LEN:
        raise ConfigError(
            f"max_seq_len is {max_seq_len}",
            f"{MIN_SEQ_LEN} to {MAX_SEQ_LEN:,} tokens: a row needs a start token, an end token and text",
            "set size.max_seq_len",
        )
    with on_meta_device():
        backbone = construct(config.model.backbone, Transformer, vocab_size=512)
        if "_target_" in config.model.head:  # else the task makes it, when it has seen the data
            build_head(to_plain(config.model.head), backbone)


def build_model(model_config: Mapping[str, Any], tokenizer: Tokenizer) -> Model:
    """Build a model with initial weights."""
    backbone = build_backbone(model_config["backbone"], tokenizer)
    model = Model(backbone, build_head(model_config["head"], backbone))
    initialize(model, model_config["init"])
    return model


def build_backbone(node: Mapping[str, Any], tokenizer: Tokenizer) -> Transformer:
    """Build the backbone that `node` describes, for the tokenizer's vocabulary, or its two vocabularies."""
    sizes = {"vocab_size": tokenizer.vocab_size}
    if tokenizer.has_own_target:
        sizes["target_vocab_size"] = tokenizer.target.vocab_size
    return construct(node, Transformer, **sizes)


def build_head(node: Mapping[str, Any], backbone: Transformer) -> torch.nn.Module:
    """Build the head that `node` describes, with what it needs from the backbone."""
    known = {"embedding": backbone.output_embedding, "d_model": backbone.d_model}
    accepted = inspect.signature(class_of(node, torch.nn.Module, path="model.head")).parameters
    return construct(node, torch.nn.Module, **{name: known[name] for name in known if name in accepted})


def head_node(head: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task's head, with the options of the `present` head that it accepts, such as a soft cap."""
    taken = inspect.signature(class_of(head, torch.nn.Module, path="model.head")).parameters
    return {**{key: value for key, value in present.items() if key in taken}, **head}
