"""Convert a Hugging Face model to the parts of a bundle: configuration, weights, tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from modules.heads import NoHead
from modules.model import Model
from pipeline.config.recorded import filled
from pipeline.errors import ConfigError, InteropError
from pipeline.interop.checkpoint import Checkpoint
from pipeline.interop.families import FAMILIES
from pipeline.interop.foreign_tokenizer import read_tokenizer
from pipeline.interop.proof import Theirs, prove_equal
from pipeline.interop.shape import build_model, nested
from pipeline.interop.table import NO_HEAD, Family, Values

#: Tokens of each row that is compared with what `transformers` makes of it.
N_TOKENS = 128

#: What a backbone of each kind is pretrained with.
TASKS = {
    "Decoder": "pipeline.tasks.causal_lm.CausalLM",
    "Encoder": "pipeline.tasks.masked_lm.MaskedLM",
    "EncoderDecoder": "pipeline.tasks.denoise.SpanDenoising",
}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What was read.

    Args:
        model: with their weights, in float32.
        model_config: the node of `model.json`.
        tokenizer: of the model.
        task: the class that the backbone is pretrained with.
        unused: tensors of the file that no model here reads.
        theirs: how the original is loaded, for the proof.
    """

    model: Model
    model_config: dict[str, Any]
    tokenizer: Any
    task: str
    unused: tuple[str, ...]
    theirs: Theirs

    @property
    def has_head(self) -> bool:
        """Whether the file has a head."""
        return not isinstance(self.model.head, NoHead)

    def prove(self) -> float:
        """The relative error of logits, or of hidden states, to the original in a fresh process.

        Raises:
            InteropError: it is not the same model; the first layer that differs is named.
        """
        return prove_equal(self.model, self.tokenizer, self.theirs, n_tokens=N_TOKENS)


def import_model(checkpoint: Checkpoint, *, max_seq_len: int | None = None) -> Imported:
    """Read the model of a checkpoint; `max_seq_len` lets it read fewer tokens than it could.

    Raises:
        InteropError: its configuration cannot be expressed, or its tensors do not fit.
        TokenizerError: its tokenizer cannot be used.
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
    """The family, our configuration, full name of each tensor -> its name in the file, what is not read."""
    model_type = checkpoint.config["model_type"]
    families = [family for family in FAMILIES if family.model_type == model_type]
    for family in families:
        ours = family.to_ours(checkpoint.config)
        names = _full_names(family, checkpoint.names)
        unused = tuple(sorted(names[name] for name in family.unused if name in names))
        kept = {name: stored for name, stored in names.items() if name not in family.unused}
        heads = {name for rule in family.rules(ours) if family.is_of_head(rule) for name in rule.theirs}
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
    """Names as a model with a head has them; a backbone that was saved alone leaves the first part out."""
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
    """A model of ours with the tensors of the file, each of which is compared with what it must be."""
    try:
        with torch.device("meta"):
            planned = build_model(ours)
    except ConfigError as error:
        raise InteropError(
            f"config.json describes a model that cannot be built ({error.sentence})",
            "consistent sizes",
            "check config.json",
        ) from error
    family.check_names(names, ours)
    wanted = family.weights_to_theirs(planned.state_dict(), ours)
    given = {name: checkpoint.tensor(names[name]).float() for name in wanted}
    _check_shapes(given, wanted, names)
    try:
        state = family.weights_to_ours(given, ours)
    except ValueError as error:
        raise InteropError(
            f"the weights are not those of a supported model ({error})",
            f"a {family.model_type} model with a supported activation",
            "choose another model of the family",
        ) from error
    model = build_model(ours)
    model.load_state_dict(state, strict=True)
    return model.eval()


def _check_shapes(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Mapping[str, str]
) -> None:
    wrong = [
        f"{names[name]} is {tuple(tensor.shape)} and not {tuple(wanted[name].shape)}"
        for name, tensor in given.items()
        if tensor.shape != wanted[name].shape
    ]
    if wrong:
        raise InteropError(
            f"tensors do not have the shapes that config.json specifies: {'; '.join(wrong[:5])}",
            "config.json and weights of the same model",
            "check that they belong together",
        )
