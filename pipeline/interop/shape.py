"""Our model configuration as dotted keys, including all defaults and derived sizes."""

from collections.abc import Mapping
from typing import Any

from modules.layers import LayerSpec
from modules.model import Model
from modules.transformer import Transformer
from pipeline.config.construct import construct
from pipeline.config.model import build_head
from pipeline.config.recorded import filled

Values = dict[str, Any]
_LAYER = "backbone.layer."


def dotted(node: Mapping[str, Any], vocab_size: int) -> Values:
    """Return the dotted keys for the content of a `model.json`."""
    ours = {"vocab_size": vocab_size, **_flat(filled(node, "model"))}
    spec = LayerSpec(**{key.removeprefix(_LAYER): value for key, value in ours.items() if _is_option(key)})
    ours |= {
        _LAYER + "d_ff": spec.ffn_size,
        _LAYER + "d_head": spec.head_size,
        _LAYER + "n_kv_heads": spec.n_heads if spec.n_kv_heads is None else spec.n_kv_heads,
        _LAYER + "norm_eps": spec.epsilon,
        _LAYER + "qkv_bias": spec.bias if spec.qkv_bias is None else spec.qkv_bias,
    }
    if ours.get("backbone.n_encoder_layers", 0) is None:
        ours["backbone.n_encoder_layers"] = ours["backbone.n_layers"]
    return ours


def nested(ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `model.json` for dotted keys."""
    node: dict[str, Any] = {}
    for key, value in ours.items():
        if key == "vocab_size":
            continue
        *path, last = key.split(".")
        inner = node
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return node


def build_model(ours: Mapping[str, Any]) -> Model:
    """Build a model with this configuration; its weights are arbitrary."""
    node = nested(ours)
    backbone = construct(node["backbone"], Transformer, vocab_size=ours["vocab_size"])
    return Model(backbone, build_head(node["head"], backbone))


def _is_option(key: str) -> bool:
    return key.startswith(_LAYER) and not key.endswith("_target_")


def _flat(node: Mapping[str, Any], prefix: str = "") -> Values:
    flat: Values = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
