"""Convert a Hugging Face model to the parts of a bundle: configuration, weights, tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from modules.heads import NoHead
from modules.meta import on_meta_device
from modules.model import Model
from pipeline.config.recorded import filled
from pipeline.errors import ConfigError, InteropError
from pipeline.interop.checkpoint import Checkpoint
from pipeline.interop.families import FAMILIES
from pipeline.interop.foreign_tokenizer import read_tokenizer
from pipeline.interop.proof import Theirs, prove_equal
from pipeline.interop.shape import build_model, nested
from pipeline.interop.table import NO_HEAD, Family, Values

#: The number of tokens per row that are compared with the output of `transformers`.
N_TOKENS = 128

#: The pretraining task of each architecture.
TASKS = {
    "Decoder": "pipeline.tasks.causal_lm.CausalLM",
    "Encoder": "pipeline.tasks.masked_lm.MaskedLM",
    "EncoderDecoder": "pipeline.tasks.denoise.SpanDenoising",
}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A converted model.

    Args:
        model: the model, with weights in float32.
        model_config: the content of `model.json`.
        tokenizer: the tokenizer of the model.
        task: the class of the pretraining task that suits the backbone.
        unused: tensors of the file that the model does not use.
        theirs: how to load the original, for the comparison.
    """

    model: Model
    model_config: dict[str, Any]
    tokenizer: Any
    task: str
    unused: tuple[str, ...]
    theirs: Theirs

    @property
    def has_head(self) -> bool:
        """Whether the model has a head."""
        return not isinstance(self.model.head, NoHead)

    def prove(self) -> float:
        """Compare with the original in a new process; return the relative error of logits or hidden states.

        Raises:
            InteropError: the models differ; names the first layer that does.
        """
        return prove_equal(self.model, self.tokenizer, self.theirs, n_tokens=N_TOKENS)


def import_model(checkpoint: Checkpoint, *, max_seq_len: int | None = None) -> Imported:
    """Convert the model of a checkpoint; `max_seq_len` reduces its context length.

    Raises:
        InteropError: the configuration cannot be expressed, or the tensors do not match it.
        TokenizerError: the tokenizer cannot be used.
    """
    family, ours, names, unused = _fitting(checkpoint)
    tokenizer = read_tokenizer(checkpoint, int(ours["vocab_size"]))
    if max_seq_len is not None:
        ours = _shortened(ours, max_seq_len)
    model = _filled_model(checkpoint, family, ours, names)
    has_head = ours["head._target_"] != NO_HEAD
    return Imported(
        model=model,
        model_config=filled(nested(ours), "model"),
        tokenizer=tokenizer,
        task=TASKS[family.backbone],
        unused=unused,
        theirs=Theirs(
            folder=checkpoint.folder,
            architecture=family.architecture if has_head else "AutoModel",
            gguf=checkpoint.gguf,
            hidden=partial(family.hidden_to_theirs, ours=ours),
            is_ours=False,
        ),
    )


def _fitting(checkpoint: Checkpoint) -> tuple[Family, Values, dict[str, str], tuple[str, ...]]:
    """Return the family, our configuration, stored names of tensors by full name, and unused tensors."""
    model_type = checkpoint.config["model_type"]
    families = [family for family in FAMILIES if family.model_type == model_type]
    for family in families:
        ours = family.to_ours(checkpoint.config)
        names = _full_names(family, checkpoint.names)
        unused = tuple(sorted(names[name] for name in family.unused if name in names))
        kept = {name: stored for name, stored in names.items() if name not in family.unused}
        heads = {name for rule in family.rules(ours) if family.is_head_rule(rule) for name in rule.theirs}
        if heads and not heads & kept.keys():
            ours = {key: value for key, value in ours.items() if not key.startswith("head.")}
            ours["head._target_"] = NO_HEAD
        tables = {
            name: checkpoint.tensor(stored) for name, stored in kept.items() if "embed_positions" in name
        }
        if family.fits(tables, ours) or family is families[-1]:
            return family, ours, kept, unused
    raise AssertionError("the last family fits")


def _full_names(family: Family, names: frozenset[str]) -> dict[str, str]:
    """Map full names of tensors to stored names, which have no prefix if the backbone was saved alone."""
    if not family.prefix or any(name.startswith(family.prefix) for name in names):
        return {name: name for name in names}
    return {family.prefix + name: name for name in names}


def _shortened(ours: Mapping[str, Any], max_seq_len: int) -> Values:
    longest = ours["backbone.max_seq_len"]
    if not 4 <= max_seq_len <= longest:
        raise InteropError(
            f"max_seq_len={max_seq_len}, but the model reads at most {longest:,} tokens",
            f"4 to {longest}",
            "give another value, or leave out max_seq_len",
        )
    return {**ours, "backbone.max_seq_len": max_seq_len}


def _filled_model(
    checkpoint: Checkpoint, family: Family, ours: Mapping[str, Any], names: Mapping[str, str]
) -> Model:
    """Return our model with the tensors of the file, after comparing their names and shapes."""
    try:
        with on_meta_device():
            planned = build_model(ours)
    except ConfigError as error:
        raise InteropError(
            f"config.json describes a model that cannot be built ({error.sentence})",
            "consistent sizes",
            "check config.json",
        ) from error
    family.check_names(names, ours)
    expected = family.weights_to_theirs(planned.state_dict(), ours)
    stored = {name: checkpoint.tensor(names[name]).float() for name in expected}
    _check_shapes(stored, expected, names)
    _check_values(stored, names)
    try:
        state = family.weights_to_ours(stored, ours)
    except ValueError as error:
        raise InteropError(
            f"the weights are not those of a supported model ({error})",
            f"a {family.model_type} model that our classes can express",
            "choose another model of the family",
        ) from error
    model = build_model(ours)
    model.load_state_dict(state, strict=True)
    return model.eval()


def _check_shapes(
    stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], names: Mapping[str, str]
) -> None:
    wrong = [
        f"{names[name]} has the shape {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
        for name, tensor in stored.items()
        if tensor.shape != expected[name].shape
    ]
    if wrong:
        raise InteropError(
            f"tensors do not have the shapes that config.json implies: {'; '.join(wrong[:5])}",
            "config.json and weights of the same model",
            "check that the files belong together",
        )


def _check_values(stored: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    wrong = [names[name] for name, tensor in stored.items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise InteropError(
            f"tensors contain NaN or infinity: {', '.join(wrong[:5])}",
            "finite weights",
            "download the files again, or choose another model",
        )
