"""Dialogue: messages of a user and replies of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from datamodules.errors import DataError
from datamodules.tokenizer import ForeignTokenizer, Tokenizer
from modules.generation import SamplingOptions, generate
from modules.model import Model
from modules.transformer import Decoder, Transformer
from pipeline import progress
from pipeline.tasks.base import Sample, forbidden_ids
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.finetuning import Feature, Prediction, Row, Score, number_of
from pipeline.tasks.layouts import OneSequence
from pipeline.tasks.scoring import Floats, Ints, column_sums, mean_score, statistic_score
from pipeline.tasks.showing import Showing
from pipeline.tasks.turns import Stream, Turn, TurnInput, turns_of
from pipeline.tasks.writing import (
    Answer,
    Room,
    WritingTask,
    collate_labelled,
    label_totals,
    written_feature,
)


@dataclass(frozen=True, kw_only=True)
class Dialogue(WritingTask):
    """Reply to a user: `<bos> <user> text <assistant> reply <eos> <user> ...`, trained on replies only.

    The model generates the last reply of a dialogue from the turns before it, or a new reply if the dialogue
    does not end with one. `reply_perplexity` and `reply_accuracy` cover every token of all replies;
    `exact_match` covers the last replies. If a dialogue is longer than the context, its oldest turns are
    dropped (`pipeline.tasks.turns.Stream`).

    Args:
        label_smoothing: the share of a label's probability that is spread over all tokens in training.
        temperature: the sampling temperature; 0 takes the most likely token.
        top_p: sample from the smallest set of most likely tokens whose probabilities add up to p.
        max_reply_tokens: the maximum length of a reply, including its end token.
        seed: the seed for sampling.
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_reply_tokens: Annotated[int, Field(ge=1)] = 100
    seed: int = 0

    inputs: ClassVar[tuple[str, ...]] = ("turns",)
    targets: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = "reply_perplexity"
    hub_task: ClassVar[str | None] = "text-generation"
    higher_is_better: ClassVar[bool] = False
    backbones: ClassVar[tuple[type[Transformer], ...]] = (Decoder,)
    length_option: ClassVar[str] = "max_reply_tokens"
    input_types: ClassVar[Mapping[str, Any]] = {"turns": list[TurnInput]}
    showing: ClassVar[Showing] = Showing(
        form="dialogue",
        title={"en": "Talk", "zh": "对话"},
        about={
            "en": "Replies to what you write; it reads the whole dialogue so far.",
            "zh": "回应你说的话，前面的对话它都会读。",
        },
        columns={
            "turns": {"en": "Your message", "zh": "你的话"},
        },
        view="chat",
    )

    @property
    def example_row(self) -> Row:
        """A dialogue with one turn of the user."""
        return {"turns": [{"role": "user", "text": "Where is the lantern?"}]}

    def shown_input(self, row: Row) -> Row:
        """Return the first turns, up to the second one of the user."""
        turns = turns_of(row, "a row")
        user_turns = [number for number, turn in enumerate(turns) if turn.role == "user"][:2]
        return {"turns": [turn._asdict() for turn in turns[: user_turns[-1] + 1]]}

    def check(self, rows: Sequence[Row], split: str) -> None:
        """Check that dialogues have replies, and that none of these is empty."""
        for number, row in enumerate(rows):
            where = f"row {number_of(rows, number)} of {split}"
            replies = [turn.text for turn in turns_of(row, where) if turn.role == "assistant"]
            if not replies or not all(map(str.strip, replies)):
                raise DataError(
                    f"{where}: turns has {'an empty reply' if replies else 'no reply'}",
                    "at least one turn of the assistant, and text in each",
                    "leave out the row",
                )

    def texts(self, row: Row) -> list[str]:
        """Return the texts of all turns."""
        return [turn.text for turn in turns_of(row, "a row")]

    def features(self, row: Row, tokenizer: Tokenizer, backbone: Transformer) -> list[Feature]:
        """Return the dialogue, in parts if it is too long; each token of a reply is labelled once."""
        limit = backbone.max_seq_len
        return Stream.of(turns_of(row, "a row"), tokenizer, limit=limit).features(limit=limit)

    def predict(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> list[Prediction]:
        """Generate the last reply of each dialogue; an existing last reply is not read for that.

        `details` contains the loss and the number of correct tokens over all existing replies, for `score`.

        Raises:
            DataError: a row is not a dialogue.
        """
        if not rows:
            return []
        dialogues = [turns_of(row, f"row {number + 1}") for number, row in enumerate(rows)]
        answers, _ = self._answers(model, tokenizer, dialogues, batch_size=batch_size)
        totals = self._reply_totals(model, tokenizer, dialogues, batch_size=batch_size)
        return [
            Prediction(
                text=tokenizer.decode(answer.ids).strip(),
                details={**details, "finish_reason": answer.finish_reason},
            )
            for answer, details in zip(answers, totals, strict=True)
        ]

    def writing(self, model: Model, tokenizer: Tokenizer, row: Row) -> Feature | None:
        """Return the prompt and the generated reply, which is labelled."""
        (answer,), prompts = self._answers(model, tokenizer, [turns_of(row, "the row")], batch_size=1)
        return written_feature(OneSequence(), tokenizer, prompts[0], answer)

    def _answers(
        self, model: Model, tokenizer: Tokenizer, dialogues: Sequence[Sequence[Turn]], *, batch_size: int
    ) -> tuple[list[Answer], dict[int, list[int]]]:
        """Return the reply to each dialogue, and the prompts by row."""
        limit = model.backbone.max_seq_len
        contexts = [Stream.of(_context(turns), tokenizer, limit=limit) for turns in dialogues]
        prompts: dict[int, list[int]] = {}

        def prompt(row: int, reserve: int) -> list[int]:
            prompts[row] = contexts[row].prompt(tokenizer, limit=limit, reserve=reserve)
            return prompts[row]

        room = Room(
            left=lambda n_prompt: limit + 1 - n_prompt,
            most_tokens=min(self.max_reply_tokens, limit),
            limit=limit,
        )
        write = partial(self._write, model, tokenizer)
        return room.answers(prompt, len(dialogues), write, batch_size=batch_size), prompts

    def prompt(self, turns: Sequence[Turn], tokenizer: Tokenizer, *, limit: int, reserve: int) -> list[int]:
        """Return the prompt of the next reply: the latest turns, with space for `reserve` more tokens."""
        return Stream.of(turns, tokenizer, limit=limit).prompt(tokenizer, limit=limit, reserve=reserve)

    def _write(
        self, model: Model, tokenizer: Tokenizer, prompts: list[list[int]], max_new_tokens: int
    ) -> list[Answer]:
        options = SamplingOptions(
            temperature=self.temperature, top_p=self.top_p, seed=self.seed, max_new_tokens=max_new_tokens
        )
        generated = generate(
            model,
            prompts,
            options,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            forbidden_ids=forbidden_ids(tokenizer),
        )
        return [Answer(ids=ids, ended=len(ids) < max_new_tokens) for ids in generated]

    def _reply_totals(
        self, model: Model, tokenizer: Tokenizer, dialogues: Sequence[Sequence[Turn]], *, batch_size: int
    ) -> list[dict[str, float]]:
        """Return the loss in nats, the number of tokens and of correct tokens of each dialogue's replies."""
        limit = model.backbone.max_seq_len
        examples = [
            (number, feature)
            for number, turns in enumerate(dialogues)
            for feature in Stream.of(turns, tokenizer, limit=limit).features(limit=limit)
        ]
        examples.sort(key=lambda item: len(item[1]["input_ids"]))
        totals = np.zeros((len(dialogues), 3))
        some = [examples[first : first + batch_size] for first in range(0, len(examples), batch_size)]
        for batch in progress.batches(some, len(examples)):
            numbers, features = zip(*batch, strict=True)
            np.add.at(totals, list(numbers), label_totals(model, collate_labelled(features)))
        return [
            {"reply_nats": nats, "reply_tokens": int(n_tokens), "reply_tokens_right": int(n_right)}
            for nats, n_tokens, n_right in totals.tolist()
        ]

    def score(
        self, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = False
    ) -> dict[str, Score]:
        """Return perplexity and accuracy over reply tokens, and exact match if dialogues end in a reply."""
        table = _details(predictions)

        def perplexity(chosen: Ints) -> Floats:
            sums = column_sums(chosen, table)
            result: Floats = np.exp(sums[:, 0] / sums[:, 1])
            return result

        def accuracy(chosen: Ints) -> Floats:
            sums = column_sums(chosen, table)
            result: Floats = sums[:, 2] / sums[:, 1]
            return result

        scores = {
            "reply_perplexity": statistic_score(perplexity, len(table), intervals=intervals),
            "reply_accuracy": statistic_score(accuracy, len(table), intervals=intervals),
        }
        matches = [match for match in _matches(predictions, rows) if match is not None]
        if matches:
            scores["exact_match"] = mean_score(np.array(matches, np.float64), intervals=intervals)
        return scores

    def row_scores(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Floats:
        """Return 1 if the last reply equals the target; without one, the accuracy of earlier tokens."""
        _, n_tokens, n_right = _details(predictions).T
        shares = n_right / np.maximum(n_tokens, 1)
        matches = _matches(predictions, rows)
        return np.array(
            [share if match is None else match for match, share in zip(matches, shares, strict=True)],
            np.float64,
        )

    def sample(self, row: Row, prediction: Prediction) -> Sample:
        """Return the turns so far, the generated reply, and the target reply."""
        turns = turns_of(row, "a row")
        context = "\n".join(f"{turn.role}: {turn.text}" for turn in _context(turns))
        return Sample(input=context, output=prediction.text + prediction.remark, target=_reply(turns))

    @property
    def questions(self) -> tuple[str, ...]:
        """The next message of the user."""
        return ("you",)

    def row_from_input(self, typed: Sequence[str], history: Sequence[tuple[Row, Prediction]]) -> Row:
        """Return the dialogue so far, including the last reply, with the new message."""
        turns: list[Turn] = []
        if history:
            row, prediction = history[-1]
            turns = [*turns_of(row, "a row"), Turn("assistant", prediction.text)]
        turns.append(Turn("user", typed[0]))
        return {"turns": [turn._asdict() for turn in turns]}


def _reply(turns: Sequence[Turn]) -> str | None:
    """Return the reply at the end of the dialogue; None if it does not end with one."""
    return turns[-1].text if turns[-1].role == "assistant" else None


def _context(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Return the turns before the reply at the end of the dialogue, or all if it does not end with one."""
    return turns[:-1] if turns[-1].role == "assistant" else turns


def _matches(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[bool | None]:
    targets = [_reply(turns_of(row, "a row")) for row in rows]
    return [
        None if target is None else prediction.text == target.strip()
        for prediction, target in zip(predictions, targets, strict=True)
    ]


def _details(predictions: Sequence[Prediction]) -> Floats:
    names = ("reply_nats", "reply_tokens", "reply_tokens_right")
    return np.array([[prediction.details[name] for name in names] for prediction in predictions], np.float64)


def dialogue_of(task: Any, tokenizer: Tokenizer) -> Dialogue | None:
    """Return the task that replies: `task`, or the default one for an imported language model with ChatML."""
    if isinstance(task, Dialogue):
        return task
    has_chatml = isinstance(tokenizer, ForeignTokenizer) and tokenizer.has_chatml
    return Dialogue() if has_chatml and isinstance(task, CausalLM) else None
