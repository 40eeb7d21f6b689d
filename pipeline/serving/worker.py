"""The single thread that runs the models: rows of tasks in batches, texts token by token.

In each turn, waiting texts enter a decoding batch, one batch of rows is predicted, and each decoding batch
makes one step. So a long text blocks nobody, and a short one leaves its batch as soon as it ends.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from datamodules.errors import DataError
from modules.continuous import DecodingBatch, NextToken
from modules.generation import SamplingOptions
from pipeline.serving.metrics import Metrics
from pipeline.serving.problems import queue_full
from pipeline.serving.served import ServedModel
from pipeline.tasks.finetuning import Prediction, Row


@dataclass(kw_only=True, eq=False)
class Job:
    """One row to predict, or one text to generate.

    Args:
        model: the model that answers.
        receive: called with each result, in the thread of the server.
        is_cancelled: whether nobody waits for the result any more.
    """

    model: ServedModel
    receive: Callable[[Any], None]
    is_cancelled: bool = False


@dataclass(kw_only=True, eq=False)
class RowJob(Job):
    """A row of a task; `receive` is called with its Prediction or an exception."""

    row: Row


@dataclass(kw_only=True, eq=False)
class TextJob(Job):
    """A prompt to continue; `receive` is called with each NextToken or an exception."""

    prompt: Sequence[int]
    options: SamplingOptions
    number: int = 0


#: Passes results of jobs to the thread of the server.
Deliver = Callable[[list[tuple[Job, Any]]], None]


@dataclass(kw_only=True)
class Worker:
    """Runs jobs in its own thread until it is stopped or fails.

    Args:
        deliver: passes on results; called in the worker's thread.
        failed: called in the worker's thread if the worker fails.
        metrics: counts batches.
        max_waiting: the maximum number of waiting rows.
        max_rows: the maximum number of rows of a batch.
    """

    deliver: Deliver
    failed: Callable[[BaseException], None]
    metrics: Metrics
    max_waiting: int
    max_rows: int
    _rows: deque[RowJob] = field(default_factory=deque)
    _running: list[RowJob] = field(default_factory=list)
    _texts: deque[TextJob] = field(default_factory=deque)
    _batches: dict[ServedModel, DecodingBatch[TextJob]] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopping: bool = False
    _problem: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the worker runs."""
        return self._problem is None and self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        """The number of waiting rows."""
        return len(self._rows) + len(self._texts)

    @property
    def n_decoding(self) -> int:
        """The number of rows that are being generated."""
        return sum(len(batch) for batch in list(self._batches.values()))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Add all of these jobs to the queue, or none.

        Raises:
            RequestProblem: the queue is full.
        """
        with self._changed:
            if self._stopping or self._problem is not None or self.n_waiting + len(jobs) > self.max_waiting:
                raise queue_full()
            self._rows.extend(job for job in jobs if isinstance(job, RowJob))
            self._texts.extend(job for job in jobs if isinstance(job, TextJob))
            self._changed.notify()

    def stop(self) -> None:
        """Finish the queue, then end; return when the thread has ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._wait():
                self._turn()
        except BaseException as error:
            self._problem = error
            with self._changed:
                left: list[Job] = [*self._running, *self._rows, *self._texts, *self._decoding()]
            self.deliver([(job, error) for job in left])
            self.failed(error)

    def _wait(self) -> bool:
        """Wait until there is work; return False when the worker is to end."""
        with self._changed:
            while not (self._rows or self._texts or self.n_decoding):
                self._batches.clear()
                if self._stopping:
                    return False
                self._changed.wait()
        return True

    def _turn(self) -> None:
        self._drop_cancelled()
        self._enter()
        if rows := self._next_rows():
            self.metrics.observe("prelude_batch_rows", len(rows))
            self._running = rows
            self.deliver(answered(rows))
            self._running = []
        for model, batch in list(self._batches.items()):
            self._step(model, batch)

    def _drop_cancelled(self) -> None:
        with self._changed:
            self._rows = deque(job for job in self._rows if not job.is_cancelled)
            self._texts = deque(job for job in self._texts if not job.is_cancelled)
        for batch in self._batches.values():
            batch.remove({job for job in batch.keys if job.is_cancelled})

    def _decoding(self) -> list[Job]:
        return [job for batch in self._batches.values() for job in batch.keys]

    def _enter(self) -> None:
        """Add waiting texts to the decoding batch of their model while it has room."""
        with self._changed:
            waiting, self._texts = self._texts, deque()
        late: list[TextJob] = []
        for job in waiting:
            batch = self._batches.setdefault(job.model, job.model.decoding())
            if len(batch) >= self.max_rows:
                late.append(job)
                continue
            try:
                batch.add(job, job.prompt, job.options, number=job.number)
            except ValueError as error:
                self.deliver([(job, error)])
        with self._changed:
            self._texts.extendleft(reversed(late))

    def _next_rows(self) -> list[RowJob]:
        """Return the row that has waited longest, with others for the same model."""
        with self._changed:
            if not self._rows:
                return []
            model = self._rows[0].model
            taken = [job for job in self._rows if job.model is model][: self.max_rows]
            chosen = set(map(id, taken))
            self._rows = deque(job for job in self._rows if id(job) not in chosen)
        return taken

    def _step(self, model: ServedModel, batch: DecodingBatch[TextJob]) -> None:
        if not len(batch):
            del self._batches[model]
            return
        self.metrics.observe("prelude_decoding_rows", len(batch))
        jobs = batch.keys
        try:
            tokens = batch.step()
        except Exception as error:  # only this batch fails; other models continue
            del self._batches[model]
            self.deliver([(job, error) for job in jobs])
            return
        results: list[tuple[Job, NextToken]] = [(job, tokens[job]) for job in jobs if job in tokens]
        self.deliver(results)


def answered(jobs: Sequence[RowJob]) -> list[tuple[Job, Prediction | Exception]]:
    """Return the predictions for rows, or exceptions; if one row makes the batch fail, each is run alone."""
    model = jobs[0].model
    try:
        predictions = model.task.predict(
            model.bundle.model, model.bundle.tokenizer, [job.row for job in jobs], batch_size=len(jobs)
        )
    except Exception as error:
        if len(jobs) == 1:
            return [(jobs[0], error)]
        if not isinstance(error, DataError | ValueError):
            return [(job, error) for job in jobs]
        return [pair for job in jobs for pair in answered([job])]
    return list(zip(jobs, predictions, strict=True))
