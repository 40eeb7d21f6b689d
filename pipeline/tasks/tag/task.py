"""Token classification: a tag for each word."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from datamodules.collate import Batch
from datamodules.corruption import IGNORE
from datamodules.errors import DataError
from datamodules.tokenizer import Tokenizer
from modules.model import Model
from modules.transformer import Decoder, Encoder, Transformer
from pipeline.tasks.base import Sample
from pipeline.tasks.classify.figures import confusion_figure
from pipeline.tasks.explaining import Decision
from pipeline.tasks.finetuning import Feature, FinetuneTask, Prediction, Row, Score
from pipeline.tasks.inference import batch_outputs, collate_inputs
from pipeline.tasks.scoring import Floats
from pipeline.tasks.showing import Showing
from pipeline.tasks.tag.deciding import decisions_of
from pipeline.tasks.tag.entities import Entity, counts, entities, row_f1, scores, type_rows
from pipeline.tasks.tag.figures import types_figure
from pipeline.tasks.tag.rows import check_rows, check_tokens, text_and_spans
from pipeline.tasks.tag.windows import Window, windows
from pipeline.tasks.writing import collate_labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modules.lit_module import Objective


@dataclass(frozen=True, kw_only=True)
class TokenClassification(FinetuneTask):
    """Tag each word of a row with O, B-TYPE or I-TYPE, which mark the words of entities and their types.

    The tag is predicted at the first token of each word. A row that is too long is read in windows of whole
    words, so that every word is tagged.

    Args:
        entity_types: types of entities in the order of the model's outputs; None: all types of the training
            rows.
        stride: the number of tokens by which consecutive windows of a long row overlap.
        both_directions: whether a decoder is trained as an encoder, so that the tag of a word depends on the
            words after it too.
        dropout: dropout of the hidden states.
        word_baseline: whether to score the most frequent tag of each word too, for comparison.

    Source: Devlin et al. 2019, "BERT", section 5.3.
    """

    entity_types: list[str] | None = None
    stride: Annotated[int, Field(ge=0)] = 64
    both_directions: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    word_baseline: bool = True

    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    input_types: ClassVar[Mapping[str, Any]] = {"tokens": str | list[str]}
    showing: ClassVar[Showing] = Showing(
        form="entities",
        title={"en": "Mark names", "zh": "标注实体"},
        about={
            "en": "Marks the words that name something, such as people, places and things.",
            "zh": "标出文中的人物、地点和物品等名称。",
        },
        columns={
            "tokens": {"en": "Text", "zh": "文本"},
        },
        view="tag",
    )
    targets: ClassVar[tuple[str, ...]] = ("tags",)
    metric: ClassVar[str] = "f1"
    baseline_titles: ClassVar[Mapping[str, str]] = {
        "words": "most frequent tag of each word (mean over rows)"
    }
    backbones: ClassVar[tuple[type[Transformer], ...]] = (Encoder, Decoder)

    def architecture(self, backbone: type[Transformer]) -> type[Transformer]:
        """Return an encoder, unless `both_directions` is false."""
        return Encoder if self.both_directions else backbone

    def fit(self, rows: Sequence[Row]) -> Self:
        """Learn the types of entities; `check` validates the rows."""
        tags = {str(tag) for row in rows for tag in row.get("tags") or ()}
        types = sorted({tag[2:] for tag in tags if tag[:2] in ("B-", "I-")})
        return replace(super().fit(rows), entity_types=self.entity_types or types)

    def shown_input(self, row: Row) -> Row:
        """Return the words as a text."""
        return {"tokens": text_and_spans(row)[0]}

    def check(self, rows: Sequence[Row], split: str) -> None:
        """Check that rows have words, and one legal tag for each word."""
        check_rows(rows, split, self.entity_types or None)
        if self.entity_types == []:
            raise DataError(
                "no training row has an entity: all tags are O",
                "some tags B-TYPE or I-TYPE",
                "check the column of the tags with `make show-data`",
            )

    def texts(self, row: Row) -> list[str]:
        """Return the words as a text."""
        return [text_and_spans(row)[0]]

    @property
    def tag_names(self) -> list[str]:
        """The tags in the order of the model's outputs."""
        return ["O", *(f"{prefix}-{kind}" for kind in self.entity_types or () for prefix in "BI")]

    def features(self, row: Row, tokenizer: Tokenizer, backbone: Transformer) -> list[Feature]:
        """Return one example for each window; `labels` has a tag at the first token of each word."""
        numbers = {tag: number for number, tag in enumerate(self.tag_names)}
        tags = np.array([numbers[tag] for tag in row["tags"]])
        features: list[Feature] = []
        for window in self._windows(row, tokenizer, backbone):
            labels = np.full(len(window.ids), IGNORE)
            labels[window.places] = tags[window.words]
            features.append({"input_ids": window.ids, "labels": labels})
        return features

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Pad features to `input_ids`, `attention_mask` and `labels` (B, T)."""
        return collate_labelled(features)

    def head(self, backbone: Transformer) -> dict[str, Any]:
        """Return a head with one score for each tag at each token."""
        return {
            "_target_": "modules.heads.TokenHead",
            "d_model": backbone.d_model,
            "n_classes": len(self.tag_names),
            "dropout": self.dropout,
        }

    def objective(self) -> "Objective":
        """Return the cross-entropy of the tags."""
        from pipeline.tasks.tag.objective import TagObjective

        return TagObjective()

    def predict(
        self, model: Model, tokenizer: Tokenizer, rows: Sequence[Row], *, batch_size: int
    ) -> list[Prediction]:
        """Predict the most likely tag of each word; confidence is the probability of the least certain one.

        `text` has the entities in brackets. `details` contains `plain_text`, the text that was read; `words`;
        `tags`; and `entities`, each with its `type`, `text`, characters `start` and `end`, words `first_word`
        and `end_word`, and `confidence`. A row may also be a text, which is split into words.

        Raises:
            DataError: a row has no words.
        """
        for number, row in enumerate(rows):
            check_tokens(row, f"row {number + 1}")
        owned = [
            (number, window)
            for number, row in enumerate(rows)
            for window in self._windows(row, tokenizer, model.backbone)
        ]
        probabilities = [np.zeros((len(text_and_spans(row)[1]), len(self.tag_names))) for row in rows]
        features = [{"input_ids": window.ids} for _, window in owned]
        for numbers, logits, _ in batch_outputs(model, features, collate_inputs, batch_size=batch_size):
            shares = logits.double().softmax(dim=-1).cpu().numpy()
            for line, number in enumerate(numbers):
                row, window = owned[number]
                probabilities[row][window.words] = shares[line, window.places]
        return [self._prediction(row, p) for row, p in zip(rows, probabilities, strict=True)]

    def _prediction(self, row: Row, shares: Floats) -> Prediction:
        text, spans = text_and_spans(row)
        tags = [self.tag_names[best] for best in shares.argmax(axis=1)]
        certain = shares.max(axis=1)
        details = [
            {
                "type": one.type,
                "text": text[spans[one.first][0] : spans[one.end - 1][1]],
                "start": spans[one.first][0],
                "end": spans[one.end - 1][1],
                "first_word": one.first,
                "end_word": one.end,
                "confidence": float(certain[one.first : one.end].min()),
            }
            for one in entities(tags)
        ]
        return Prediction(
            text=_marked(text, spans, entities(tags)),
            confidence=float(certain.min()),
            details={
                "plain_text": text,
                "words": [text[start:end] for start, end in spans],
                "tags": tags,
                "entities": details,
            },
        )

    def score(
        self, predictions: Sequence[Prediction], rows: Sequence[Row], *, intervals: bool = False
    ) -> dict[str, Score]:
        """Return f1, precision and recall of entities, the accuracy of words, and the f1 of each type."""
        pairs = [(p.details["tags"], row["tags"]) for p, row in zip(predictions, rows, strict=True)]
        n_right = np.array([sum(map(str.__eq__, *pair)) for pair in pairs])
        n_words = np.array([len(tags) for _, tags in pairs])
        return scores(
            self._counts(predictions, rows), n_right, n_words, self.entity_types or (), intervals=intervals
        )

    def row_scores(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Floats:
        """Return the F1 of each row; 1 if it has no entity and none is predicted."""
        return row_f1(self._counts(predictions, rows))

    def notes(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, str]:
        """Return the definition of a correct entity."""
        return {"f1": "entities with exact span and type, as in seqeval's default mode"}

    def baselines(self, train: Sequence[Row], rows: Sequence[Row]) -> dict[str, Callable[[], Floats]]:
        """Return the most frequent tag of each word in training, regardless of context."""

        def words() -> Floats:
            seen: dict[str, Counter[str]] = defaultdict(Counter)
            for row in train:
                for token, tag in zip(row["tokens"], row["tags"], strict=True):
                    seen[token][tag] += 1
            commonest = {token: tags.most_common(1)[0][0] for token, tags in seen.items()}
            tags = [[commonest.get(token, "O") for token in row["tokens"]] for row in rows]
            return row_f1(counts(tags, [row["tags"] for row in rows], self.entity_types or ()))

        return {"words": words} if self.word_baseline else {}

    def sample(self, row: Row, prediction: Prediction) -> Sample:
        """Return the text, and the predicted and the target entities in brackets."""
        text, spans = text_and_spans(row)
        tags = row.get("tags")
        target = None if tags is None else _marked(text, spans, entities(tags))
        return Sample(input=text, output=f"{prediction.text}{prediction.shown_confidence}", target=target)

    def figures(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, "Figure"]:
        """Return `entity_types`, and the `confusion_matrix` of words by type."""
        types = self.entity_types or []
        places = {kind: number for number, kind in enumerate(["", *types])}
        target = np.array([places[tag[2:]] for row in rows for tag in row["tags"]])
        predicted = np.array([places[tag[2:]] for p in predictions for tag in p.details["tags"]])
        return {
            "entity_types": types_figure(type_rows(self._counts(predictions, rows), types)),
            "confusion_matrix": confusion_figure(target, predicted, ["none", *types]),
        }

    def decisions(
        self, model: Model, tokenizer: Tokenizer, row: Row, prediction: Prediction
    ) -> list[Decision]:
        """Return the log-odds of the types of the least certain entities, each at its first word.

        If there is no entity, it is the log-probability that no word belongs to one.
        """
        text, spans = text_and_spans(row)
        return decisions_of(
            self._windows(row, tokenizer, model.backbone),
            prediction.details["entities"],
            tag_names=self.tag_names,
            text=text,
            spans=spans,
            tokenizer=tokenizer,
        )

    def as_text(self, row: Row) -> Row:
        """Return the row with its words joined to a text."""
        return {**row, "tokens": text_and_spans(row)[0]}

    @property
    def questions(self) -> tuple[str, ...]:
        """The text, which is split into words."""
        return ("text",)

    def row_from_input(self, typed: Sequence[str], history: Sequence[tuple[Row, Prediction]]) -> Row:
        """Return the typed text as a row; an empty one repeats the previous one."""
        return {"tokens": typed[0] or (history[-1][0]["tokens"] if history else "")}

    def _counts(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> Any:
        tags = [prediction.details["tags"] for prediction in predictions]
        return counts(tags, [row["tags"] for row in rows], self.entity_types or ())

    def _windows(self, row: Row, tokenizer: Tokenizer, backbone: Transformer) -> list[Window]:
        text, spans = text_and_spans(row)
        words = [text[start:end] for start, end in spans]
        return windows(words, tokenizer, limit=backbone.max_seq_len, stride=self.stride)


def _marked(text: str, spans: Sequence[tuple[int, int]], found: Sequence[Entity]) -> str:
    """Return the text with each entity as `[words TYPE]`."""
    parts, done = [], 0
    for one in found:
        start, end = spans[one.first][0], spans[one.end - 1][1]
        parts += [text[done:start], f"[{text[start:end]} {one.type}]"]
        done = end
    return "".join([*parts, text[done:]])
