"""Connects requests with the worker: chooses the model and returns its predictions."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from datamodules.errors import DataError
from modules.continuous import NextToken
from modules.errors import ArgumentError
from modules.generation import SamplingOptions
from pipeline.serving.filtering import Filter
from pipeline.serving.metrics import Metrics
from pipeline.serving.options import ServingOptions
from pipeline.serving.problems import RequestProblem
from pipeline.serving.served import ServedModel
from pipeline.serving.worker import Job, RowJob, TextJob, Worker
from pipeline.tasks.finetuning import Prediction, Row

#: How a model is warmed up before the server is ready: by generating two tokens.
_WARM_UP = SamplingOptions(temperature=0.0, max_new_tokens=2)


class Engine:
    """The served models, and the worker that runs them.

    Args:
        models: the served models; if a request names none, the first one that supports it is used.
        options: the limits of the server.
        metrics: the metrics of the server.
        failed: called in the worker's thread if the worker fails.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        options: ServingOptions,
        metrics: Metrics,
        failed: Callable[[BaseException], None],
    ) -> None:
        self.models = {model.name: model for model in models}
        self.options = options
        self.metrics = metrics
        self.filter = Filter(options, metrics)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.worker = Worker(
            deliver=self._deliver,
            failed=failed,
            metrics=metrics,
            max_waiting=options.max_waiting_rows,
            max_rows=options.max_batch_rows,
        )

    def start(self) -> None:
        """Start the worker, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self.worker.start()
        self.metrics.gauges |= {
            "prelude_waiting_rows": ("Waiting rows.", lambda: self.worker.n_waiting),
            "prelude_writing_rows": ("Rows being generated.", lambda: self.worker.n_decoding),
        }

    def replace(self, model: ServedModel) -> None:
        """Replace the model of the same name; its pending requests are still answered by the old model."""
        self.models[model.name] = model
        self.metrics.count("prelude_reloads_total", model=model.name)

    def find(self, name: str | None, serves: Callable[[ServedModel], bool]) -> ServedModel:
        """Return the model that a request names, or else the first one that supports the request.

        Raises:
            RequestProblem: no model does.
        """
        able = [model for model in self.models.values() if serves(model)]
        for model in able:
            if name is None or name in (model.name, model.spec):
                return model
        names = ", ".join(model.name for model in able) or "none"
        raise RequestProblem(
            400, f"model: {name!r} does not support this endpoint; expected {names}", field="model"
        )

    async def warm_up(self, model: ServedModel) -> None:
        """Send the model one request of each kind."""
        if model.endpoint is not None:
            await self.answer(model, [model.task.example_row])
        if model.writes:
            prompt = [model.bundle.tokenizer.bos_id]
            async for _ in self.write(model, prompt, _WARM_UP):
                pass

    async def answer(self, model: ServedModel, rows: Sequence[Row]) -> list[Prediction]:
        """Return the model's predictions for rows, in order.

        Raises:
            RequestProblem: the queue is full, or a row is invalid.
        """
        futures = [asyncio.get_running_loop().create_future() for _ in rows]
        jobs = [
            RowJob(model=model, receive=_settling(future), row=row)
            for future, row in zip(futures, rows, strict=True)
        ]
        with self._submitted(jobs):
            answers = await asyncio.gather(*futures)
        for number, answer in enumerate(answers):
            if isinstance(answer, BaseException):
                raise _row_problem(answer, model, len(rows), number)
        self.metrics.count("prelude_rows_total", len(rows), model=model.name)
        return [self.filter.prediction(answer) for answer in answers]

    async def write(
        self,
        model: ServedModel,
        prompt: Sequence[int],
        options: SamplingOptions,
        *,
        number: int = 0,
        at_once: bool = False,
    ) -> AsyncGenerator[NextToken, None]:
        """Yield the tokens that a model generates after a prompt, or all `at_once` when the text has ended.

        Waking the caller for each token takes as much CPU time as a small model needs to generate it.

        Raises:
            RequestProblem: the queue is full.
        """
        began, batches = time.monotonic(), asyncio.Queue[list[Any]]()
        held: list[Any] = []
        n_written = 0

        def receive(step: Any) -> None:
            if not (n_written or held) and not isinstance(step, BaseException):
                waited = time.monotonic() - began
                self.metrics.observe("prelude_first_token_seconds", waited, model=model.name)
            held.append(step)
            if not at_once or isinstance(step, BaseException) or step.ended is not None:
                batches.put_nowait(held.copy())
                held.clear()

        job = TextJob(model=model, receive=receive, prompt=prompt, options=options, number=number)
        try:
            with self._submitted([job]):
                self.metrics.count("prelude_prompt_tokens_total", len(prompt), model=model.name)
                while True:
                    for step in await batches.get():
                        if isinstance(step, BaseException):
                            raise _failure(step) from step
                        n_written += step.token is not None
                        yield step
                        if step.ended is not None:
                            return
        finally:
            self.metrics.count("prelude_written_tokens_total", n_written, model=model.name)

    @contextmanager
    def _submitted(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Submit jobs, and cancel them when the block is left."""
        self.worker.submit(jobs)
        try:
            yield
        finally:
            for job in jobs:
                job.is_cancelled = True

    def _deliver(self, pairs: list[tuple[Job, Any]]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed, so nobody is waiting
            self._loop.call_soon_threadsafe(_hand_over, pairs)


def _hand_over(pairs: list[tuple[Job, Any]]) -> None:
    for job, result in pairs:
        job.receive(result)


def _settling(future: "asyncio.Future[Any]") -> Callable[[Any], None]:
    def settle(result: Any) -> None:
        if not future.done():
            future.set_result(result)

    return settle


def _row_problem(error: BaseException, model: ServedModel, n_rows: int, number: int) -> RequestProblem:
    """Return the error for a row; it names the column if the message begins with one."""
    if not isinstance(error, DataError):
        return _failure(error)
    problem = error.problem.removeprefix("row 1").lstrip(": ,")
    column = problem.partition(" ")[0].rstrip(",:")
    read = model.task.input_columns
    known = column in (*read.required, *read.optional)
    place = f"rows.{number}" if n_rows > 1 else ""
    field = ".".join(part for part in (place, column if known else "") if part) or "rows"
    return RequestProblem(400, f"row {number + 1}: {problem}; expected {error.expected}", field=field)


def _failure(error: BaseException) -> RequestProblem:
    """Return an error that hides the details of a failure from the client; the server's log has them."""
    if isinstance(error, RequestProblem):
        return error
    if isinstance(error, ArgumentError):
        return RequestProblem(400, f"{error.problem}; expected {error.expected}")
    problem = RequestProblem(500, f"the model failed ({type(error).__name__})")
    problem.__cause__ = error
    return problem
