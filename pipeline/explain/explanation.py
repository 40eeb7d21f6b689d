"""Explain one prediction; used by the server, by `make explain`, and at the end of evaluations."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from datamodules.corruption import IGNORE
from datamodules.tokenizer import Tokenizer
from modules.generation import SamplingOptions
from modules.interpret import MOST_STEPS, AttentionRecorder, integrated_gradients, token_choices
from modules.model import Model
from pipeline.explain.words import Word, words_of
from pipeline.tasks.base import PretrainingTask
from pipeline.tasks.explaining import Decision
from pipeline.tasks.finetuning import Feature, FinetuneTask, Prediction, Row
from pipeline.tasks.writing import collate_labelled

#: The maximum number of tokens on each side whose attention is recorded; pictures show no more.
ATTENTION_TOKENS = 48
#: The number of most likely tokens that are listed for each generated token.
N_ALTERNATIVES = 5
#: The token that replaces text in the baseline: the first of these that a tokenizer has.
BASELINES = ("pad", "unk", "eos")
#: The number of decimal digits in the results.
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Attributed:
    """A decision, and the contributions of the words to it.

    Args:
        about: what was decided.
        output: the score of the decision for the row.
        baseline: the token that replaces each token of the row's texts in the baseline.
        baseline_output: the score for the baseline.
        words: the words of the row; their attributions add up to the difference of the scores, up to the gap.
        n_steps: the number of points at which gradients were computed.
        gap: the relative error of that sum.
        is_complete: whether the gap is within the tolerance.
    """

    about: str
    output: float
    baseline: str
    baseline_output: float
    words: Sequence[Word]
    n_steps: int
    gap: float
    is_complete: bool

    def strongest(self, n: int) -> list[Word]:
        """Return the words with the largest attributions, the largest first."""
        return sorted(self.words, key=lambda word: -word.attribution)[:n]


@dataclass(frozen=True, kw_only=True)
class WrittenToken:
    """A generated token: its text, its probability, its rank from 1, and the most likely tokens there."""

    text: str | None
    probability: float
    rank: int
    alternatives: Sequence[tuple[str, float]]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The attention of the last layer, for the first tokens of each side.

    Args:
        tokens: the tokens of each side, `input_ids` and `decoder_input_ids`; empty if they may not be shown.
        heads: weights by name of the attention, as a list over heads, queries and keys.
    """

    tokens: Mapping[str, Sequence[str]]
    heads: Mapping[str, Sequence[Sequence[Sequence[float]]]]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a model gave its answer to a row.

    Args:
        task: the class of the task.
        answer: the answer of the model; None if it may not be shown.
        confidence: the confidence, if the task defines one.
        decisions: the decisions behind the answer, with the contributions of words.
        written: the tokens of the answer, if it was generated.
        attention: the attention of the last layer; None if it was not recorded.
    """

    task: str
    answer: str | None
    confidence: float | None
    decisions: Sequence[Attributed]
    written: Sequence[WrittenToken]
    attention: Attention | None

    @property
    def gap(self) -> float | None:
        """The largest gap of all decisions."""
        return max((one.gap for one in self.decisions), default=None)

    def without_text(self, *, keep_answer: bool = False) -> "Explanation":
        """Return a copy with token numbers instead of words; the name of a class may be kept."""
        decisions = [
            replace(one, words=[replace(word, text=None) for word in one.words]) for one in self.decisions
        ]
        written = [replace(token, text=None, alternatives=[]) for token in self.written]
        attention = None if self.attention is None else replace(self.attention, tokens={})
        return replace(
            self,
            answer=self.answer if keep_answer else None,
            decisions=decisions,
            written=written,
            attention=attention,
        )

    def record(self) -> dict[str, Any]:
        """Return the explanation as JSON values."""
        return asdict(self)


def explain_row(
    task: FinetuneTask | PretrainingTask,
    model: Model,
    tokenizer: Tokenizer,
    row: Row,
    *,
    prediction: Prediction | None = None,
    sampling: SamplingOptions | None = None,
    most_steps: int = MOST_STEPS,
    attention: bool = True,
) -> Explanation:
    """Predict a row and explain the prediction.

    Args:
        task: the task of the model, from its bundle.
        model: the model, on any device.
        tokenizer: the tokenizer of the model.
        row: the columns that the task reads; for a pretrained model `text`, the prompt.
        prediction: the prediction, if it is already known.
        sampling: the sampling options of a pretrained model; None: greedy.
        most_steps: the maximum number of steps of integrated gradients, complete or not.
        attention: whether to record attention.

    Raises:
        DataError: the row is invalid.
    """
    if isinstance(task, FinetuneTask):
        if prediction is None:
            (prediction,) = task.predict(model, tokenizer, [row], batch_size=1)
        decisions = task.decisions(model, tokenizer, row, prediction)
        feature = task.writing(model, tokenizer, row)
    else:
        decisions = []
        feature = task.writing(
            model, tokenizer, row["text"], sampling or SamplingOptions(temperature=0.0, max_new_tokens=40)
        )
    shown = task.as_text(row) if isinstance(task, FinetuneTask) else row
    attributed = [_attributed(model, tokenizer, one, shown, most_steps) for one in decisions]
    written = [] if feature is None else _written(model, tokenizer, feature)
    read = decisions[0].batch if decisions else None if feature is None else collate_labelled([feature])
    return Explanation(
        task=type(task).__name__,
        answer=_answer(tokenizer, feature) if prediction is None else prediction.text,
        confidence=None if prediction is None else prediction.confidence,
        decisions=attributed,
        written=written,
        attention=None if read is None or not attention else _attention(model, tokenizer, read),
    )


def _on_device(model: Model, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    device = model.backbone.embedding.weight.device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _attributed(
    model: Model, tokenizer: Tokenizer, decision: Decision, row: Row, most_steps: int
) -> Attributed:
    role = next(role for role in BASELINES if tokenizer.has(role))
    baseline_id: int = getattr(tokenizer, f"{role}_id")
    batch = _on_device(model, decision.batch)
    is_text = torch.tensor(
        [[place is not None for place in decision.places]], device=batch["input_ids"].device
    )
    gradients = integrated_gradients(
        model,
        batch,
        decision.score,
        baseline=batch["input_ids"].masked_fill(is_text, baseline_id),
        most_steps=most_steps,
    )
    texts = {place.column: row[place.column] for place in decision.places if place is not None}
    return Attributed(
        about=decision.about,
        output=round(gradients.output, _DIGITS),
        baseline=tokenizer.decode_tokens([baseline_id])[0],
        baseline_output=round(gradients.baseline_output, _DIGITS),
        words=[
            replace(word, attribution=round(word.attribution, _DIGITS))
            for word in words_of(texts, decision.places, gradients.values.tolist())
        ],
        n_steps=gradients.n_steps,
        gap=gradients.gap,
        is_complete=gradients.is_complete,
    )


def _answer(tokenizer: Tokenizer, feature: Feature | None) -> str:
    if feature is None:
        return ""
    labels = feature["labels"]
    return tokenizer.target.decode(labels[labels != IGNORE])


def _written(model: Model, tokenizer: Tokenizer, feature: Feature) -> list[WrittenToken]:
    batch = _on_device(model, collate_labelled([feature]))
    chosen = token_choices(model, batch, n_best=N_ALTERNATIVES, ignored=IGNORE)
    names = tokenizer.target.decode_tokens(chosen.ids.tolist())
    best = zip(chosen.best_ids.tolist(), chosen.best_probabilities.tolist(), strict=True)
    return [
        WrittenToken(
            text=name,
            probability=round(probability, _DIGITS),
            rank=rank + 1,
            alternatives=[
                (other, round(share, _DIGITS))
                for other, share in zip(tokenizer.target.decode_tokens(ids), shares, strict=True)
            ],
        )
        for name, probability, rank, (ids, shares) in zip(
            names, chosen.probabilities.tolist(), chosen.ranks.tolist(), best, strict=True
        )
    ]


def _attention(model: Model, tokenizer: Tokenizer, batch: Mapping[str, Tensor]) -> Attention | None:
    """Record the attention of a row; only the first tokens of each side are kept."""
    sides = {"input_ids": tokenizer, "decoder_input_ids": tokenizer.target}
    real = {
        name: int(batch.get(name.replace("input_ids", "attention_mask"), torch.ones_like(batch[name])).sum())
        for name in sides
        if name in batch
    }
    inputs = {name: tensor for name, tensor in batch.items() if not name.startswith("label")}
    with torch.no_grad(), AttentionRecorder(model.backbone).recording() as recorder:
        model.hidden(_on_device(model, inputs))
    if not (weights := recorder.last_layer()):
        return None
    kept = {name: min(n, ATTENTION_TOKENS) for name, n in real.items()}
    heads = {}
    for name, maps in weights.items():
        queries, keys = sides_of(name)
        shown = maps[0, :, : kept[queries], : kept[keys]].tolist()
        heads[name] = [[[round(x, 4) for x in line] for line in head] for head in shown]
    tokens = {name: sides[name].decode_tokens(batch[name][0, :n].tolist()) for name, n in kept.items()}
    return Attention(tokens=tokens, heads=heads)


def sides_of(attention: str) -> tuple[str, str]:
    """Return the sides of a batch that an attention takes its queries and its keys from."""
    if attention == "decoder.cross_attn":
        return "decoder_input_ids", "input_ids"
    side = "decoder_input_ids" if attention.startswith("decoder.") else "input_ids"
    return side, side
