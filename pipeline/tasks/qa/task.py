"""Extractive question answering: the answer is a span of the context, or there is none."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from datamodules.collate import Batch
from datamodules.features import pad
from datamodules.tokenizer import Tokenizer
from modules.model import Model
from modules.transformer import Decoder, Encoder, Transformer
from pipeline.tasks.base import Sample
from pipeline.tasks.explaining import Decision
from pipeline.tasks.finetuning import Feature, FinetuneTask, Prediction, Row, Score
from pipeline.tasks.inference import batch_outputs, collate_inputs, without_padding
from pipeline.tasks.qa import squad
from pipeline.tasks.qa.deciding import deciding_window, span_score, window_places
from pipeline.tasks.qa.rows import check_rows, excerpt, references
from pipeline.tasks.qa.spans import Candidates, Span, probabilities, propose
from pipeline.tasks.qa.windows import Passage, Window, windows
from pipeline.tasks.scoring import mean_score
from pipeline.tasks.showing import Showing

if TYPE_CHECKING:
    from modules.lit_module import Objective

#: Passages are cached, because questions on one context usually follow each other.
_PASSAGES_KEPT = 64


@dataclass(frozen=True, kw_only=True)
class ExtractiveQA(FinetuneTask):
    """Predict the first and last token of the answer in a context, or that there is no answer.

    A context longer than the backbone's is split into overlapping windows. All of them are trained on; as in
    BERT's `run_squad.py`, a window without the whole first answer is labelled as having none. Answers of
    different windows are compared by the sum of their two logits; the score of no answer is the lowest of all
    windows.

    Args:
        stride: the number of tokens by which consecutive windows overlap.
        max_question_tokens: longer questions are truncated.
        max_answer_tokens: longer answers are not considered.
        n_best: the number of answers kept for each window and returned in `details`.
        null_threshold: by how much the score of no answer must exceed that of the best answer to be
            predicted; None: chosen for the best F1 on validation rows if some have no answer; 0 until then.
        mark_question_words: mark each token of the context that also occurs in the question.
        both_directions: load a bundle's decoder as an encoder with the same weights, so that an answer is
            predicted from the words after it too.
        unanswerable: whether a question may have no answer; learned from the training rows.
        dropout: dropout of the hidden states before the head.

    Sources: Devlin et al. 2019, "BERT", sections 4.2 and 4.3; Chen et al. 2017, "Reading Wikipedia to Answer
    Open-Domain Questions", section 3.2 (marked words); BehnamGhader et al. 2024, "LLM2Vec", section 2.1 (a
    decoder's weights with attention in both directions).
    """

    stride: Annotated[int, Field(ge=0)] = 64
    max_question_tokens: Annotated[int, Field(ge=1)] = 64
    max_answer_tokens: Annotated[int, Field(ge=1)] = 30
    n_best: Annotated[int, Field(ge=1)] = 20
    null_threshold: float | None = None
    mark_question_words: bool = True
    both_directions: bool = True
    unanswerable: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    inputs: ClassVar[tuple[str, ...]] = ("context", "question")
    targets: ClassVar[tuple[str, ...]] = ("answers",)
    metric: ClassVar[str] = "f1"
    hub_task: ClassVar[str | None] = "question-answering"
    least_steps: ClassVar[int] = 2000
    endpoint: ClassVar[str] = "answer"
    backbones: ClassVar[tuple[type[Transformer], ...]] = (Decoder, Encoder)
    showing: ClassVar[Showing] = Showing(
        form="span",
        title={"en": "Answer questions", "zh": "回答问题"},
        about={
            "en": "Finds the answer to a question in a text, and marks it there.",
            "zh": "在文中找出问题的答案，并把它标出来。",
        },
        columns={
            "context": {"en": "Text", "zh": "文本"},
            "question": {"en": "Question", "zh": "问题"},
        },
        view="qa",
    )

    def architecture(self, backbone: type[Transformer]) -> type[Transformer]:
        """Return an encoder, unless `both_directions` is false."""
        return Encoder if self.both_directions else backbone

    @property
    def example_row(self) -> Row:
        """An example sentence with a question about it."""
        return {"context": "Frieda the gardener has a yellow lantern.", "question": "What does Frieda have?"}

    @property
    def backbone_options(self) -> dict[str, Any]:
        """One token type, for tokens that occur in the question, if `mark_question_words` is set."""
        return {"n_token_types": 1} if self.mark_question_words else {}

    def fit(self, rows: Sequence[Row]) -> Self:
        """Learn whether there are questions without an answer."""
        empty = any(not (row.get("answers") or {"text": True})["text"] for row in rows)
        return replace(super().fit(rows), unanswerable=self.unanswerable or empty)

    def check(self, rows: Sequence[Row], split: str) -> None:
        """Check that rows have a question and a context, and that each answer starts where the row says."""
        check_rows(rows, split)

    def texts(self, row: Row) -> list[str]:
        """Return the context and the question; the answer is part of the context."""
        return [row["context"], row["question"]]

    def features(self, row: Row, tokenizer: Tokenizer, backbone: Transformer) -> list[Feature]:
        """Return one example per window; `answer_span` (2,) has the first and last index of the answer."""
        passage = _passage(row["context"], tokenizer)
        features: list[Feature] = []
        for window in self._windows(row, passage, tokenizer, backbone):
            span = window.null, window.null
            if references(row):
                start = row["answers"]["answer_start"][0]
                span = window.span(*passage.tokens(start, start + len(row["answers"]["text"][0])))
            features.append(_as_feature(window) | {"answer_span": np.array(span, np.int64)})
        return features

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Return `input_ids`, `token_type_ids`, `passage_mask` (B, T) and `answer_span` (B, 2)."""
        spans = np.stack([feature["answer_span"] for feature in features])
        return _collate_inputs(features) | {"answer_span": torch.from_numpy(spans)}

    def head(self, backbone: Transformer) -> dict[str, Any]:
        """Return a head with two scores for each token."""
        return {"_target_": "modules.heads.SpanHead", "d_model": backbone.d_model, "dropout": self.dropout}

    def objective(self) -> "Objective":
        """Return the cross-entropy of the first and the last token."""
        from pipeline.tasks.qa.objective import SpanObjective

        return SpanObjective()

    def predict(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> list[Prediction]:
        """Return the best answer for each row, or "" if there is none.

        `details` contains `start` and `end` of the answer in the context; `n_best`, the best answers with
        their positions and probabilities; and `null_margin`, the score of no answer minus that of the best
        answer.
        """
        candidates = [Candidates(_passage(row["context"], tokenizer)) for row in rows]
        owned = list(self._all_windows(rows, candidates, tokenizer, model.backbone))
        features = [_as_feature(window) for _, window in owned]
        for numbers, logits, _ in batch_outputs(model, features, _collate_inputs, batch_size=batch_size):
            some = [owned[number] for number in numbers]
            proposed = propose(
                [window for _, window in some],
                logits,
                n_best=self.n_best,
                max_answer_tokens=self.max_answer_tokens,
            )
            for (row, window), (places, scores, null) in zip(some, proposed, strict=True):
                candidates[row].add(window, places, scores, null)
        return [self._answer(row_candidates) for row_candidates in candidates]

    def score(
        self, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = False
    ) -> dict[str, Score]:
        """Return exact match and F1 from 0 to 1, also for questions with and without an answer separately.

        They follow the script of SQuAD v1.1, or of v2.0 if some question has no answer, or of CMRC 2018 for
        Chinese.
        """
        exact, f1, answerable = squad.row_scores([p.text for p in predictions], rows)
        values = {"exact_match": exact, "f1": f1}
        if 0 < answerable.sum() < len(answerable):
            values |= {
                "has_answer_exact_match": exact[answerable],
                "has_answer_f1": f1[answerable],
                "no_answer_f1": f1[~answerable],
            }
        return {name: mean_score(some, intervals=intervals) for name, some in values.items()}

    def row_scores(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> npt.NDArray[np.float64]:
        """Return the F1 of each answer."""
        return squad.row_scores([p.text for p in predictions], rows)[1]

    def notes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, str]:
        """Return the name of the evaluation script whose definition is used."""
        chinese = sum(squad.is_chinese(row["context"]) for row in rows)
        script = "SQuAD v1.1" if all(references(row) for row in rows) else "SQuAD v2.0"
        if chinese == len(rows):
            script = "CMRC 2018"
        elif chinese:
            script = f"{script}; CMRC 2018 for {chinese} rows with Chinese contexts"
        return {"exact_match": script, "f1": script}

    def needs_calibration(self, rows: Sequence[Row]) -> bool:
        """Return whether a question has no answer and no threshold is set."""
        return self.null_threshold is None and not all(references(row) for row in rows)

    def calibrated(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Self:
        """Return the task with the null threshold of the best F1, unless a threshold is set or not needed."""
        if not self.needs_calibration(rows):
            return self
        best = [next((one["text"] for one in p.details["n_best"] if one["text"]), "") for p in predictions]
        margins = [p.details["null_margin"] for p in predictions]
        threshold = squad.best_null_threshold(
            np.array([np.inf if margin is None else margin for margin in margins]),
            squad.row_scores(best, rows)[1],
            squad.row_scores([""] * len(best), rows)[1],
        )
        return replace(self, null_threshold=threshold)

    def sample(self, row: Row, prediction: Prediction) -> Sample:
        """Return the question with its context, the predicted answer with its confidence, and the target."""
        target = None
        if row.get("answers") is not None:
            target = next(iter(references(row)), "no answer")
        question = f"{row['question']} [{excerpt(row)}]"
        output = f"{prediction.text or 'no answer'}{prediction.shown_confidence}"
        return Sample(input=question, output=output, target=target)

    def decisions(
        self, model: Model, tokenizer: Tokenizer, row: Row, prediction: Prediction
    ) -> list[Decision]:
        """Return the log-probability of both ends of the answer in its window."""
        passage = _passage(row["context"], tokenizer)
        cut = self._windows(row, passage, tokenizer, model.backbone)
        features = [_as_feature(window) for window in cut]
        start, end = (prediction.details[name] for name in ("start", "end"))
        answer = None if start is None else passage.tokens(start, end)
        outputs: dict[int, Tensor] = {}
        for numbers, logits, _ in batch_outputs(model, features, _collate_inputs, batch_size=len(features)):
            outputs |= dict(zip(numbers.tolist(), logits, strict=True))
        number, span = deciding_window(cut, outputs, answer)
        return [
            Decision(
                about="the answer" if answer else "that there is no answer",
                batch=without_padding(_collate_inputs([features[number]])),
                score=partial(span_score, span=span),
                places=window_places(cut[number], row["question"], passage, tokenizer),
            )
        ]

    def _windows(
        self, row: Row, passage: Passage, tokenizer: Tokenizer, backbone: Transformer
    ) -> list[Window]:
        return windows(
            tokenizer.encode(row["question"]),
            passage,
            tokenizer,
            limit=backbone.max_seq_len,
            stride=self.stride,
            max_question_tokens=self.max_question_tokens,
        )

    def _all_windows(
        self, rows: Sequence[Row], every: Sequence[Candidates], tokenizer: Tokenizer, backbone: Transformer
    ) -> Iterator[tuple[int, Window]]:
        for number, (row, candidates) in enumerate(zip(rows, every, strict=True)):
            for window in self._windows(row, candidates.passage, tokenizer, backbone):
                yield number, window

    def _answer(self, candidates: Candidates) -> Prediction:
        best = candidates.best(self.n_best)
        margin = candidates.null_score - best[0].score if best else None
        threshold = 0.0 if self.null_threshold is None else self.null_threshold
        may_be_null = self.unanswerable or self.null_threshold is not None
        is_null = margin is None or (may_be_null and margin > threshold)
        entries: list[tuple[float, Span | None]] = [(span.score, span) for span in best]
        if may_be_null:
            entries.append((candidates.null_score, None))
            entries.sort(key=lambda entry: -entry[0])
        shares = probabilities([score for score, _ in entries])
        n_best = [_entry(span, share) for (_, span), share in zip(entries, shares, strict=True)]
        best_span = None if is_null else best[0]
        text = best_span.text if best_span else ""
        confidence = next((one["probability"] for one in n_best if one["text"] == text), None)
        return Prediction(
            text=text,
            confidence=confidence,
            details={
                "start": best_span.start if best_span else None,
                "end": best_span.end if best_span else None,
                "n_best": n_best,
                "null_margin": margin,
            },
        )


def _entry(span: Span | None, share: float) -> dict[str, Any]:
    if span is None:
        return {"text": "", "start": None, "end": None, "probability": share}
    return {"text": span.text, "start": span.start, "end": span.end, "probability": share}


@lru_cache(maxsize=_PASSAGES_KEPT)
def _passage(context: str, tokenizer: Tokenizer) -> Passage:
    return Passage.of(context, tokenizer)


def _as_feature(window: Window) -> Feature:
    start = np.array([window.passage_start], np.int64)
    return {"input_ids": window.ids, "token_type_ids": window.types, "passage_start": start}


def _collate_inputs(features: Sequence[Feature]) -> Batch:
    batch = collate_inputs(features)
    places = np.arange(batch["input_ids"].shape[1])
    starts = np.array([feature["passage_start"][0] for feature in features])[:, None]
    lengths = np.array([len(feature["input_ids"]) for feature in features])[:, None]
    return batch | {
        "token_type_ids": torch.from_numpy(pad([feature["token_type_ids"] for feature in features], value=0)),
        "passage_mask": torch.from_numpy((places >= starts) & (places < lengths)),
    }
