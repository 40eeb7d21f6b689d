"""The one thread that asks the models: rows of a task in small batches, texts token by token.

What waits is taken turn by turn: rows that enter a batch of texts, one batch of rows, one step of each batch
of texts. So a long text keeps nobody waiting, and a short one leaves as soon as it has ended.
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
    """One row to be answered or written.

    Args:
        model: which answers.
        receive: is given what comes of it, in the thread of the server.
        is_cancelled: nobody waits for it any more.
    """

    model: ServedModel
    receive: Callable[[Any], None]
    is_cancelled: bool = False


@dataclass(kw_only=True, eq=False)
class RowJob(Job):
    """A row of a task; `receive` is given its Prediction, or an exception."""

    row: Row


@dataclass(kw_only=True, eq=False)
class TextJob(Job):
    """A text to go on with; `receive` is given each NextToken, or an exception."""

    prompt: Sequence[int]
    options: SamplingOptions
    number: int = 0


#: Hands what came of some jobs over to the thread of the server.
Deliver = Callable[[list[tuple[Job, Any]]], None]


@dataclass(kw_only=True)
class Worker:
    """Answers jobs in a thread of its own, until it is stopped or fails.

    Args:
        deliver: called in the worker's thread.
        failed: called in the worker's thread, when it cannot go on.
        metrics: counts batches.
        max_waiting: rows that may wait.
        max_rows: rows of a batch.
    """

    deliver: Deliver
    failed: Callable[[BaseException], None]
    metrics: Metrics
    max_waiting: int
    max_rows: int
    _rows: deque[RowJob] = field(default_factory=deque)
    _asked: list[RowJob] = field(default_factory=list)
    _texts: deque[TextJob] = field(default_factory=deque)
    _batches: dict[ServedModel, DecodingBatch[TextJob]] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stopping: bool = False
    _problem: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._problem is None and self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        """Rows that wait."""
        return len(self._rows) + len(self._texts)

    @property
    def n_decoding(self) -> int:
        """Rows that are being written."""
        return sum(len(batch) for batch in list(self._batches.values()))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let all of these jobs wait, or none.

        Raises:
            RequestProblem: there is no room for them.
        """
        with self._changed:
            if self._stopping or self._problem is not None or self.n_waiting + len(jobs) > self.max_waiting:
                raise queue_full()
            self._rows.extend(job for job in jobs if isinstance(job, RowJob))
            self._texts.extend(job for job in jobs if isinstance(job, TextJob))
            self._changed.notify()

    def stop(self) -> None:
        """Answer what waits, then end; returns when it has ended."""
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
                left: list[Job] = [*self._asked, *self._rows, *self._texts, *self._writing()]
            self.deliver([(job, error) for job in left])
            self.failed(error)

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
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
            self._asked = rows
            self.deliver(answered(rows))
            self._asked = []
        for model, batch in list(self._batches.items()):
            self._step(model, batch)

    def _drop_cancelled(self) -> None:
        with self._changed:
            self._rows = deque(job for job in self._rows if not job.is_cancelled)
            self._texts = deque(job for job in self._texts if not job.is_cancelled)
        for batch in self._batches.values():
            batch.remove({job for job in batch.keys if job.is_cancelled})

    def _writing(self) -> list[Job]:
        return [job for batch in self._batches.values() for job in batch.keys]

    def _enter(self) -> None:
        """Texts enter the batch of their model while it has room."""
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
        """The row that has waited longest, and others of its model."""
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
            written = batch.step()
        except Exception as error:  # the others go on: their models are others
            del self._batches[model]
            self.deliver([(job, error) for job in jobs])
            return
        found: list[tuple[Job, NextToken]] = [(job, written[job]) for job in jobs if job in written]
        self.deliver(found)


def answered(jobs: Sequence[RowJob]) -> list[tuple[Job, Prediction | Exception]]:
    """What the model makes of the rows; where some row spoils the batch, each is asked alone."""
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
