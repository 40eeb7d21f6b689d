"""Text in, text out: what translation and summarisation share."""

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
from pipeline.tasks.base import Sample
from pipeline.tasks.finetuning import Feature, Prediction, Row, check_text, number_of
from pipeline.tasks.layouts import layout_of
from pipeline.tasks.writing import Answer, Room, WritingTask, forbidden_ids, written_feature


@dataclass(frozen=True, kw_only=True)
class TextToText(WritingTask):
    """A source is read, its target is written: by an encoder-decoder, or by a decoder one after the other.

    A source that is too long keeps its beginning. On a decoder it has the room that its target leaves, and at
    least half of it (`pipeline.tasks.writing.Room` tells what is done while the target is not known). A
    target that is too long is trained on as far as it fits, without its end token.

    Args:
        label_smoothing: share of a label's probability that is spread over all tokens in training.
        beams: unfinished answers that are followed at once; 1 is greedy.
        length_penalty: more prefers longer answers; 1 compares means over tokens.
        max_target_tokens: the longest target, its end included.
        separate_vocabularies: train a tokenizer for the sources and another for the targets, each with an
            embedding of its own; only when training from scratch, and on an encoder-decoder.

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
        """Return the target texts: each is trained on, the nearest is scored; none without targets."""

    def check(self, rows: Sequence[Row], split: str) -> None:
        """Refuse rows whose source or target is not text or is empty."""
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
        """The source and its targets."""
        return [self.source(row), *self.references(row)]

    @property
    def vocabularies(self) -> dict[tuple[str, ...], Callable[[Row], list[str]]]:
        """One for both sides, or one for each."""
        if not self.separate_vocabularies:
            return super().vocabularies
        return {self.inputs: lambda row: [self.source(row)], self.targets: self.references}

    def features(self, row: Row, tokenizer: Tokenizer, backbone: Transformer) -> list[Feature]:
        """One example for each target of the row."""
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
        """The best answer that a beam search finds; confidence is the geometric mean over its tokens.

        An empty source has an empty answer. `finish_reason` in the details tells of it, and of answers that
        were cut.

        Raises:
            DataError: a source is not text.
        """
        (column,) = self.inputs
        for number, row in enumerate(rows):
            check_text(row.get(column), f"row {number + 1}: {column}", empty=True)
        asked = [row for row in rows if row[column].strip()]
        answers = self._answers(model, tokenizer, asked, batch_size=batch_size)[0] if asked else []
        written = iter(
            Prediction(
                text=tokenizer.target.decode(answer.ids).strip(),
                confidence=answer.confidence,
                details={"finish_reason": answer.finish_reason},
            )
            for answer in answers
        )
        nothing = Prediction(text="", details={"finish_reason": "empty_source"})
        return [next(written) if row[column].strip() else nothing for row in rows]

    def writing(self, model: Model, tokenizer: Tokenizer, row: Row) -> Feature | None:
        """The source as it was read, and the answer that the search finds; None for an empty source."""
        if not self.source(row).strip():
            return None
        (answer,), prompts = self._answers(model, tokenizer, [row], batch_size=1)
        return written_feature(layout_of(model.backbone), tokenizer, prompts[0], answer)

    def _answers(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> tuple[list[Answer], dict[int, list[int]]]:
        """The answer to each row, and by the row's number the prompt that it was written after."""
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
        found = beam_search(
            model,
            prompts,
            options,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            bos_id=tokenizer.start_id,
            forbidden_ids=forbidden_ids(tokenizer),
        )
        answers = []
        for best, *_ in found:
            n_tokens = len(best.ids) + best.ended
            mean = best.score * n_tokens ** (self.length_penalty - 1.0)
            answers.append(Answer(ids=best.ids, confidence=math.exp(min(mean, 0.0)), ended=best.ended))
        return answers

    def fast(self) -> Self:
        """Greedy."""
        return replace(self, beams=1)

    def sample(self, row: Row, prediction: Prediction) -> Sample:
        """Return the source, the written text and the first target."""
        output = prediction.text + prediction.remark
        return Sample(given=self.source(row), output=output, target=next(iter(self.references(row)), None))

    @property
    def questions(self) -> tuple[str, ...]:
        """The source."""
        return ("text",)

    def row_from_input(self, typed: Sequence[str], history: Sequence[tuple[Row, Prediction]]) -> Row:
        """The typed text is the source."""
        return {self.inputs[0]: typed[0]}
