"""Plot the attention weights in the last layer of a trained model, for the beginning of a text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.tokenizer import Tokenizer
from modules.interpret import AttentionRecorder
from modules.model import Model
from pipeline.tracking import Run
from pipeline.words import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: The artifact with the picture.
ATTENTION = "plots/attention.png"
_N_TOKENS = 24
_N_HEADS = 8
_LONGEST = 10  # characters of a token
_TITLES = {
    "stack.self_attn": "",
    "encoder.self_attn": "encoder, ",
    "decoder.self_attn": "decoder, ",
    "decoder.cross_attn": "decoder to encoder, ",
}
_FONTS = ("Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "SimHei", "WenQuanYi Zen Hei")

Batch = Mapping[str, Tensor]


def log_attention(tracked: Run, model: Model, tokenizer: Tokenizer, batch: Batch, *, show_text: bool) -> None:
    """Record a picture of the attention weights in the last layer, for the beginning of a batch's first text.

    The axes are labelled with tokens, or with positions if text may not be shown. Nothing is recorded for a
    model without attention, or for a run that is not tracked.
    """
    if tracked.run_id is None:
        return
    start = beginning(batch, _N_TOKENS)
    with torch.no_grad(), AttentionRecorder(model.backbone).recording() as recorder:
        model.hidden(start)
    if not (weights := recorder.last_layer()):
        return
    sides = {"input_ids": tokenizer, "decoder_input_ids": tokenizer.target}
    tokens = {name: sides[name].decode_tokens(ids[0].tolist()) for name, ids in start.items()}
    figure = draw_attention(weights, tokens if show_text else {})
    with TemporaryDirectory() as folder:
        file = Path(folder) / "attention.png"
        figure.savefig(file, dpi=110)
        tracked.log_file(file, ATTENTION)


def beginning(batch: Batch, n_tokens: int) -> dict[str, Tensor]:
    """Return the first document of the first row, at most `n_tokens` of each side, without padding."""
    found = {}
    for prefix in ("", "decoder_"):
        if f"{prefix}input_ids" not in batch:
            continue
        ids = batch[f"{prefix}input_ids"][:1]
        documents = batch.get(
            f"{prefix}segment_ids", batch.get(f"{prefix}attention_mask", torch.ones_like(ids))
        )
        (real,) = documents[0].nonzero(as_tuple=True)
        same = real[documents[0][real] == documents[0][real[0]]]
        found[f"{prefix}input_ids"] = ids[:, same[:n_tokens]]
    return found


def draw_attention(weights: Mapping[str, Tensor], tokens: Mapping[str, Sequence[str]]) -> "Figure":
    """Draw a row of maps for each attention, with one map per head; each query is a row of its map."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    n_heads = min(_N_HEADS, max(maps.shape[1] for maps in weights.values()))
    figure = Figure(figsize=(3.1 * n_heads + 0.8, 3.2 * len(weights) + 0.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(weights), n_heads, squeeze=False)
    norm = PowerNorm(0.5, vmin=0, vmax=1)  # makes small weights visible
    for row, (name, maps) in zip(grid, weights.items(), strict=True):
        queries, keys = _sides(name, tokens)
        for head, axes in enumerate(row):
            image = axes.imshow(maps[0, head].cpu().numpy(), cmap="Blues", norm=norm, interpolation="nearest")
            axes.set_title(f"{_TITLES.get(name, f'{name}, ')}head {head + 1}", fontsize=9)
            _label(axes, queries, keys, first=not head)
    bar = figure.colorbar(image, ax=grid, shrink=0.8 / len(weights), pad=0.01)
    bar.set_label("attention weight", fontsize=8)
    bar.ax.tick_params(labelsize=6)
    return figure


def _sides(name: str, tokens: Mapping[str, Sequence[str]]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the query tokens and the key tokens; both are empty if text may not be shown."""
    source, target = tokens.get("input_ids", ()), tokens.get("decoder_input_ids", ())
    if name == "decoder.cross_attn":
        return target, source
    return (target, target) if name.startswith("decoder.") else (source, source)


def _label(axes: "Axes", queries: Sequence[str], keys: Sequence[str], *, first: bool) -> None:
    axes.tick_params(labelsize=6, length=2)
    if not keys:
        axes.set_xlabel("key position", fontsize=8)
        if first:
            axes.set_ylabel("query position", fontsize=8)
        return
    fonts = installed_fonts()
    axes.set_xticks(range(len(keys)), printable(keys, fonts), rotation=90)
    axes.set_yticks(range(len(queries)), printable(queries, fonts) if first else [])
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # a token may be a dollar sign
        label.set_fontfamily(list(fonts))


def installed_fonts() -> dict[str, frozenset[int]]:
    """Return the installed fonts to draw text with, each with its characters."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    names = ["DejaVu Sans", *(name for name in _FONTS if name in installed)]
    return {
        name: frozenset(font_manager.get_font(font_manager.findfont(name)).get_charmap()) for name in names
    }


def printable(tokens: Sequence[str], fonts: Mapping[str, frozenset[int]]) -> list[str]:
    """Shorten tokens, and replace those with characters that no font has by their position."""
    known = frozenset().union(*fonts.values())
    short = [shorten(token, _LONGEST) for token in tokens]
    return [
        token if {ord(letter) for letter in token} <= known else f"#{place}"
        for place, token in enumerate(short)
    ]
