"""Connect requests and the worker: choose the model, and return its predictions."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from datamodules.errors import DataError
from modules.continuous import NextToken
from modules.generation import SamplingOptions
from pipeline.serving.filtering import Filter
from pipeline.serving.metrics import Metrics
from pipeline.serving.options import ServingOptions
from pipeline.serving.problems import RequestProblem
from pipeline.serving.served import ServedModel
from pipeline.serving.worker import Job, RowJob, TextJob, Worker
from pipeline.tasks.finetuning import Prediction, Row

#: Tokens that a model generates as a warm-up before the server is ready.
_WARM_UP = SamplingOptions(temperature=0.0, max_new_tokens=2)


class Engine:
    """The served models, and the worker that runs them.

    Args:
        models: the first of those that can answer a request does, where it names none.
        options: the limits.
        metrics: figures of the server.
        failed: called in the worker's thread, when it cannot go on.
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
        """Serve it in the place of the one of its name, which still answers what it was asked."""
        self.models[model.name] = model
        self.metrics.count("prelude_reloads_total", model=model.name)

    def find(self, name: str | None, serves: Callable[[ServedModel], bool]) -> ServedModel:
        """The model that a request names, or else the first one that can answer it.

        Raises:
            RequestProblem: there is none.
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
        """Ask it once, as requests do."""
        if model.endpoint is not None:
            await self.answer(model, [model.task.example_row])
        if model.writes:
            prompt = [model.bundle.tokenizer.bos_id]
            async for _ in self.write(model, prompt, _WARM_UP):
                pass

    async def answer(self, model: ServedModel, rows: Sequence[Row]) -> list[Prediction]:
        """Return the model's predictions for rows, in order.

        Raises:
            RequestProblem: the queue is full, or a row cannot be answered.
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
        """The tokens that a model goes on with, as they come, or all `at_once` when the text has ended.

        To wake the caller for each token costs as much processor time as a small model needs for it.

        Raises:
            RequestProblem: the queue is full.
        """
        began, came = time.monotonic(), asyncio.Queue[list[Any]]()
        held: list[Any] = []
        n_written = 0

        def receive(step: Any) -> None:
            if not (n_written or held) and not isinstance(step, BaseException):
                waited = time.monotonic() - began
                self.metrics.observe("prelude_first_token_seconds", waited, model=model.name)
            held.append(step)
            if not at_once or isinstance(step, BaseException) or step.ended is not None:
                came.put_nowait(held.copy())
                held.clear()

        job = TextJob(model=model, receive=receive, prompt=prompt, options=options, number=number)
        try:
            with self._submitted([job]):
                self.metrics.count("prelude_prompt_tokens_total", len(prompt), model=model.name)
                while True:
                    for step in await came.get():
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
        """While the block runs somebody waits for these jobs; afterwards their rows are free."""
        self.worker.submit(jobs)
        try:
            yield
        finally:
            for job in jobs:
                job.is_cancelled = True

    def _deliver(self, pairs: list[tuple[Job, Any]]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(_hand_over, pairs)


def _hand_over(pairs: list[tuple[Job, Any]]) -> None:
    for job, what in pairs:
        job.receive(what)


def _settling(future: "asyncio.Future[Any]") -> Callable[[Any], None]:
    def settle(what: Any) -> None:
        if not future.done():
            future.set_result(what)

    return settle


def _row_problem(error: BaseException, model: ServedModel, n_rows: int, number: int) -> RequestProblem:
    """What is wrong with a row, with its column where the error begins with one."""
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
    """Hide the details of a failure from the client; the server's log has them."""
    if isinstance(error, RequestProblem):
        return error
    if isinstance(error, ValueError) and "positions" in str(error):
        return RequestProblem(400, str(error), field="max_tokens")
    problem = RequestProblem(500, f"the model failed ({type(error).__name__})")
    problem.__cause__ = error
    return problem
