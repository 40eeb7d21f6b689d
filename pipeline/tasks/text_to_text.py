"""Text to text: what translation and summarization have in common."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from datamodules.tokenizer import Tokenizer
from modules.beam import BeamOptions, beam_search
from modules.model import Model
from modules.transformer import Decoder, EncoderDecoder, Transformer
from pipeline.tasks.base import Sample, forbidden_ids
from pipeline.tasks.finetuning import Feature, Prediction, Row, check_text, number_of
from pipeline.tasks.layouts import layout_of
from pipeline.tasks.writing import Answer, Room, WritingTask, written_feature


@dataclass(frozen=True, kw_only=True)
class TextToText(WritingTask):
    """Generate a target from a source, with an encoder-decoder or with a decoder.

    A source that is too long is truncated at the end. On a decoder, which reads source and target as one
    sequence, the source gets the space that the target leaves, and at least half of it (for prediction, see
    `pipeline.tasks.writing.Room`). The end of a target that is too long is not trained on.

    Args:
        label_smoothing: the share of a label's probability that is spread over all tokens in training.
        beams: the number of beams; 1 is greedy search.
        length_penalty: higher values prefer longer outputs; 1 compares means over tokens.
        max_target_tokens: the maximum length of a target, including its end token.
        separate_vocabularies: train one tokenizer for sources and another one for targets, each with its own
            embedding; only when training an encoder-decoder from scratch.

    Source: Sutskever et al. 2014, "Sequence to Sequence Learning with Neural Networks"; Liu et al. 2018,
    "Generating Wikipedia by Summarizing Long Sequences", section 4.2.3 (decoder only).
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    beams: Annotated[int, Field(ge=1)] = 4
    length_penalty: Annotated[float, Field(ge=0)] = 1.0
    max_target_tokens: Annotated[int, Field(ge=1)] = 128
    separate_vocabularies: bool = False

    backbones: ClassVar[tuple[type[Transformer], ...]] = (EncoderDecoder, Decoder)
    length_option: ClassVar[str] = "max_target_tokens"

    @abstractmethod
    def source(self, row: Row) -> str:
        """Return the source text."""

    @abstractmethod
    def references(self, row: Row) -> list[str]:
        """Return the target texts: all are trained on, and the most similar one is scored against."""

    def check(self, rows: Sequence[Row], split: str) -> None:
        """Check that sources and targets are texts and not empty."""
        (source,), (target,) = self.inputs, self.targets
        for number, row in enumerate(rows):
            where = f"row {number_of(rows, number)} of {split}"
            check_text(row.get(source), f"{where}: {source}")
            for target_text in self.target_values(row.get(target)):
                check_text(target_text, f"{where}: {target}")

    def target_values(self, value: Any) -> list[Any]:
        """Return the values in the target column that must be texts."""
        return [value]

    def texts(self, row: Row) -> list[str]:
        """Return the source and the targets."""
        return [self.source(row), *self.references(row)]

    @property
    def vocabularies(self) -> dict[tuple[str, ...], Callable[[Row], list[str]]]:
        """One vocabulary for both sides, or one for each."""
        if not self.separate_vocabularies:
            return super().vocabularies
        return {self.inputs: lambda row: [self.source(row)], self.targets: self.references}

    def features(self, row: Row, tokenizer: Tokenizer, backbone: Transformer) -> list[Feature]:
        """Return one example for each target of the row."""
        layout, limit = layout_of(backbone), backbone.max_seq_len
        source = tokenizer.encode(self.source(row)).astype(np.int64)
        features = []
        for target in tokenizer.target.encode_batch(self.references(row)):
            answer = np.append(target.astype(np.int64), tokenizer.eos_id)[: self.max_target_tokens]
            reserve = min(len(answer), max(limit // 2, 1))
            prompt = layout.prompt(source, tokenizer, limit=limit, reserve=reserve)
            answer = answer[: layout.room(len(prompt), limit=limit)]
            features.append(layout.feature(prompt, answer, tokenizer))
        return features

    def predict(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> list[Prediction]:
        """Return the best output of a beam search; confidence is the geometric mean over its tokens.

        An empty source has an empty output. `finish_reason` in the details says so, and whether an output was
        truncated.

        Raises:
            DataError: a source is not text.
        """
        (column,) = self.inputs
        for number, row in enumerate(rows):
            check_text(row.get(column), f"row {number + 1}: {column}", empty=True)
        sources = [row for row in rows if row[column].strip()]
        answers = self._answers(model, tokenizer, sources, batch_size=batch_size)[0] if sources else []
        generated = iter(
            Prediction(
                text=tokenizer.target.decode(answer.ids).strip(),
                confidence=answer.confidence,
                details={"finish_reason": answer.finish_reason},
            )
            for answer in answers
        )
        empty = Prediction(text="", details={"finish_reason": "empty_source"})
        return [next(generated) if row[column].strip() else empty for row in rows]

    def writing(self, model: Model, tokenizer: Tokenizer, row: Row) -> Feature | None:
        """Return the truncated source and the output of the search; None if the source is empty."""
        if not self.source(row).strip():
            return None
        (answer,), prompts = self._answers(model, tokenizer, [row], batch_size=1)
        return written_feature(layout_of(model.backbone), tokenizer, prompts[0], answer)

    def _answers(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> tuple[list[Answer], dict[int, list[int]]]:
        """Return the output for each row, and the prompts by row."""
        layout, limit = layout_of(model.backbone), model.backbone.max_seq_len
        sources = tokenizer.encode_batch([self.source(row) for row in rows])
        prompts: dict[int, list[int]] = {}

        def prompt(row: int, reserve: int) -> list[int]:
            source = sources[row].astype(np.int64)
            ids = layout.prompt(source, tokenizer, limit=limit, reserve=reserve)
            prompts[row] = [int(token) for token in ids]
            return prompts[row]

        room = Room(
            left=partial(layout.room, limit=limit),
            most_tokens=min(self.max_target_tokens, limit),
            limit=limit,
        )
        write = partial(self._write, model, tokenizer)
        return room.answers(prompt, len(rows), write, batch_size=batch_size), prompts

    def _write(
        self, model: Model, tokenizer: Tokenizer, prompts: list[list[int]], max_new_tokens: int
    ) -> list[Answer]:
        options = BeamOptions(
            beams=self.beams, length_penalty=self.length_penalty, max_new_tokens=max_new_tokens
        )
        hypotheses = beam_search(
            model,
            prompts,
            options,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            bos_id=tokenizer.start_id,
            forbidden_ids=forbidden_ids(tokenizer),
        )
        answers = []
        for best, *_ in hypotheses:
            n_tokens = len(best.ids) + best.ended
            mean = best.score * n_tokens ** (self.length_penalty - 1.0)
            answers.append(Answer(ids=best.ids, confidence=math.exp(min(mean, 0.0)), ended=best.ended))
        return answers

    def fast(self) -> Self:
        """Return the task with greedy search."""
        return replace(self, beams=1)

    def sample(self, row: Row, prediction: Prediction) -> Sample:
        """Return the source, the generated text and the first target."""
        output = prediction.text + prediction.remark
        return Sample(input=self.source(row), output=output, target=next(iter(self.references(row)), None))

    @property
    def questions(self) -> tuple[str, ...]:
        """The prompt for the source."""
        return ("text",)

    def row_from_input(self, typed: Sequence[str], history: Sequence[tuple[Row, Prediction]]) -> Row:
        """Return the typed text as the source."""
        return {self.inputs[0]: typed[0]}
