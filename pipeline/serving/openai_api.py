"""POST /v1/completions and /v1/chat/completions in OpenAI's format, as a whole or as a stream of events."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from modules.generation import SamplingOptions
from pipeline.serving.engine import Engine
from pipeline.serving.openai_formats import ChatRequest, CompletionRequest, WritingRequest
from pipeline.serving.problems import RequestProblem
from pipeline.serving.served import ServedModel
from pipeline.serving.text_stream import TextStream
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.turns import Turn

#: The maximum tokens of a completion if the request does not set it, as in OpenAI's interface.
DEFAULT_TOKENS = 16

Chunk = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """One text to generate."""

    index: int
    prompt: Sequence[int]
    options: SamplingOptions
    number: int


@dataclass(frozen=True, kw_only=True)
class Writing:
    """The texts that a request asks for, and how they are returned.

    Args:
        is_chat: whether they are replies in a dialogue rather than continuations of a text.
    """

    engine: Engine
    model: ServedModel
    request: WritingRequest
    choices: Sequence[_Choice]
    is_chat: bool
    created: int
    id: str

    async def whole(self) -> Chunk:
        """Return the response with all texts when all have ended."""
        tasks = [asyncio.create_task(self._text(choice)) for choice in self.choices]
        try:
            texts = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        answers = [
            self._choice(choice, text, ended, "message")
            for choice, (text, ended, _) in zip(self.choices, texts, strict=True)
        ]
        usage = self._usage(sum(n_tokens for *_, n_tokens in texts))
        return self._frame("chat.completion") | {"choices": answers, "usage": usage}

    async def events(self) -> AsyncGenerator[Chunk, None]:
        """Yield the events of a stream; those of several texts are interleaved as they are generated."""
        totals: list[int] = []
        chunks = self._chunks(self.choices[0], totals) if len(self.choices) == 1 else self._mixed(totals)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
        if self.request.with_usage:
            frame = self._frame("chat.completion.chunk")
            yield frame | {"choices": [], "usage": self._usage(sum(totals))}

    async def _mixed(self, totals: list[int]) -> AsyncGenerator[Chunk, None]:
        """Yield the events of all texts as they are generated."""
        queue: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue()

        async def send(choice: _Choice) -> None:
            try:
                async with aclosing(self._chunks(choice, totals)) as chunks:
                    async for chunk in chunks:
                        queue.put_nowait(chunk)
                queue.put_nowait(None)
            except Exception as error:
                queue.put_nowait(error)

        tasks = [asyncio.create_task(send(choice)) for choice in self.choices]
        try:
            left = len(tasks)
            while left:
                chunk = await queue.get()
                if isinstance(chunk, Exception):
                    raise chunk
                if chunk is None:
                    left -= 1
                else:
                    yield chunk
        finally:
            for task in tasks:
                task.cancel()

    async def _chunks(self, choice: _Choice, totals: list[int]) -> AsyncGenerator[Chunk, None]:
        """Yield the events of one text, and append its number of tokens to `totals` at its end."""
        frame = self._frame("chat.completion.chunk")
        is_new = self.is_chat  # a reply begins with its role, sent with the first token
        async with aclosing(self._pieces(choice)) as pieces:
            async for piece, stream in pieces:
                if is_new:
                    yield frame | {"choices": [self._begin(choice)]}
                if piece or stream.ended:
                    yield frame | {"choices": [self._choice(choice, piece, stream.ended, "delta")]}
                is_new, n_tokens = False, stream.n_tokens
        totals.append(n_tokens)

    async def _pieces(self, choice: _Choice) -> AsyncGenerator[tuple[str, TextStream], None]:
        """Yield what each token adds to a text, until its end."""
        engine, tokenizer = self.engine, self.model.bundle.tokenizer
        stream = TextStream(
            partial(tokenizer.decode_after, choice.prompt),
            stops=self.request.stops,
            strip=self.is_chat,
            whole=engine.filter.is_on or not self.request.stream,
        )
        at_once = not self.request.stream and not self.request.stops
        writing = engine.write(
            self.model, choice.prompt, choice.options, number=choice.number, at_once=at_once
        )
        async with aclosing(writing) as tokens:
            async for step in tokens:
                yield engine.filter.text(stream.push(step)), stream
                if stream.ended is not None:
                    return

    async def _text(self, choice: _Choice) -> tuple[str, str | None, int]:
        """Return the text, why it ended, and its number of tokens."""
        async with aclosing(self._pieces(choice)) as pieces:
            parts = [pair async for pair in pieces]
        stream = parts[-1][1]
        return "".join(piece for piece, _ in parts), stream.ended, stream.n_tokens

    @staticmethod
    def _begin(choice: _Choice) -> Chunk:
        delta = {"role": "assistant", "content": ""}
        return {"index": choice.index, "delta": delta, "finish_reason": None, "logprobs": None}

    def _choice(self, choice: _Choice, text: str, ended: str | None, key: str) -> Chunk:
        entry: Chunk = {"index": choice.index, "finish_reason": ended, "logprobs": None}
        if not self.is_chat:
            return entry | {"text": text}
        if key == "delta":
            return entry | {"delta": {"content": text} if text else {}}
        return entry | {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _frame(self, kind: str) -> Chunk:
        kind = kind if self.is_chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model.name}

    def _usage(self, n_generated: int) -> Chunk:
        prompts = {id(choice.prompt): len(choice.prompt) for choice in self.choices}
        n_read = sum(prompts.values())
        return {
            "prompt_tokens": n_read,
            "completion_tokens": n_generated,
            "total_tokens": n_read + n_generated,
        }


def completion(engine: Engine, request: CompletionRequest) -> Writing:
    """Return the continuations of the prompts of a request.

    Raises:
        RequestProblem: the model is unknown, or the prompts and the new tokens exceed the context.
    """
    model = engine.find(request.model, lambda one: isinstance(one.task, CausalLM))
    for text in request.prompts:
        _check_length(engine, text, "prompt")
    prompts = [model.task.prompt(text, model.bundle.tokenizer) for text in request.prompts]
    room = model.limit + 1 - max(map(len, prompts))
    max_tokens = min(DEFAULT_TOKENS, max(room, 1)) if request.max_tokens is None else request.max_tokens
    if max_tokens > room:
        raise _no_room(model, max(map(len, prompts)), max_tokens, "prompt" if room < 1 else "max_tokens")
    options = request.sampling(max_tokens, temperature=1.0, top_p=1.0)
    return _writing(engine, model, request, prompts=prompts, options=options, is_chat=False)


def chat(engine: Engine, request: ChatRequest) -> Writing:
    """Return the replies to a dialogue.

    Raises:
        RequestProblem: the model is unknown, or the reply may exceed the context.
    """
    model = engine.find(request.model, lambda one: one.dialogue is not None)
    task = model.dialogue
    assert task is not None
    for number, message in enumerate(request.messages):
        _check_length(engine, message.text, f"messages.{number}.content")
    turns = _turns(request)
    max_tokens = request.most_tokens
    if max_tokens is None:
        max_tokens = min(task.max_reply_tokens, model.limit)
    if max_tokens > model.limit:
        raise _no_room(model, 1, max_tokens, "max_tokens")
    reserve = min(max_tokens, max(model.limit // 2, 1))
    prompt = task.prompt(turns, model.bundle.tokenizer, limit=model.limit, reserve=reserve)
    options = request.sampling(
        min(max_tokens, model.limit + 1 - len(prompt)), temperature=task.temperature, top_p=task.top_p
    )
    return _writing(engine, model, request, prompts=[prompt], options=options, is_chat=True)


def _turns(request: ChatRequest) -> list[Turn]:
    """Return the turns of a dialogue; consecutive messages of one role are joined by a newline."""
    turns: list[Turn] = []
    for message in request.messages:
        role = "system" if message.role == "developer" else message.role
        if turns and turns[-1].role == role:
            turns.append(Turn(role, f"{turns.pop().text}\n{message.text}"))
        else:
            turns.append(Turn(role, message.text))
    return turns


def _writing(
    engine: Engine,
    model: ServedModel,
    request: WritingRequest,
    *,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    is_chat: bool,
) -> Writing:
    make = partial(_Choice, options=options)
    choices = [
        make(index=number * request.n + copy, prompt=prompt, number=copy)
        for number, prompt in enumerate(prompts)
        for copy in range(request.n)
    ]
    return Writing(
        engine=engine,
        model=model,
        request=request,
        choices=choices,
        is_chat=is_chat,
        created=int(time.time()),
        id=f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}",
    )


def _check_length(engine: Engine, text: str, field: str) -> None:
    """Check the length of a text before it is tokenized, which blocks the event loop."""
    most = engine.options.max_text_characters
    if len(text) > most:
        raise RequestProblem(400, f"{field}: the text is longer than {most:,} characters", field=field)


def _no_room(model: ServedModel, n_prompt: int, max_tokens: int, field: str) -> RequestProblem:
    return RequestProblem(
        400,
        f"{field}: a prompt length of {n_prompt:,} and max_tokens of {max_tokens:,} exceed the context of "
        f"{model.name}, which is {model.limit:,} tokens",
        field=field,
    )
