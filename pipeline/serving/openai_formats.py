"""The supported fields of requests to OpenAI's interface; other fields are rejected."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from modules.generation import SamplingOptions
from pipeline.serving.row_api import is_readable

Text = Annotated[str, AfterValidator(is_readable)]
Stop = Annotated[str, Field(min_length=1, max_length=100)]

#: Limits of OpenAI's interface.
_MOST_STOPS, _MOST_CHOICES, _MOST_PROMPTS = 4, 16, 64


class _Format(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Format):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class WritingRequest(_Format):
    """The fields that both kinds of requests have."""

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    n: Annotated[int, Field(ge=1, le=_MOST_CHOICES)] = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=_MOST_STOPS)] | None = None
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def stops(self) -> Sequence[str]:
        """The stop sequences."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_new_tokens: int, *, temperature: float, top_p: float) -> SamplingOptions:
        """Return the request's sampling options, or these defaults; without a seed, a random one is drawn."""
        return SamplingOptions(
            temperature=temperature if self.temperature is None else self.temperature,
            top_p=top_p if self.top_p is None else self.top_p,
            seed=secrets.randbits(32) if self.seed is None else self.seed,
            max_new_tokens=max_new_tokens,
        )


class CompletionRequest(WritingRequest):
    """The body of POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=_MOST_PROMPTS)]

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts, one or several."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class TextPart(_Format):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(_Format):
    """A message of a dialogue."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None

    @property
    def text(self) -> str:
        """The text of all parts."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(WritingRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def most_tokens(self) -> int | None:
        """The maximum length of a reply; `max_completion_tokens` takes precedence over `max_tokens`."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
