"""`Service`: jobs to scores on the engines' schedulers, with deadlines, a bounded queue, and clients that leave."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

from codescaler.engine.scheduler import Float32
from codescaler.errors import DeadlineExceeded
from codescaler.serve.fairness import FairSelect
from codescaler.serve.job import Job, Outcome
from codescaler.serve.metrics import Metrics
from codescaler.serve.models import ModelRegistry, ServedModel
from codescaler.serve.refusal import Refusal
from codescaler.text.token_ids import Int32

Leave: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

COALESCE_S = 0.0015  # that an idle engine waits for siblings of the first row: a connection takes less to arrive
HOLD_S = 120.0  # of work may wait. OpenRLHF waits 180 s on an open connection, and gives up after 5 s of refusals
NUM_ENCODERS = 2  # threads that tokenize: `tokenizers` lets go of the interpreter lock
UNMEASURED_TOKENS = 1 << 20  # that may wait before a first forward has shown how fast the engine is


class Service:
    """The models, the queue and its limits. `coalesce_s` and `hold_s` as the constants above."""

    def __init__(
        self, models: ModelRegistry, metrics: Metrics, *, coalesce_s: float = COALESCE_S, hold_s: float = HOLD_S
    ) -> None:
        self.models = models
        self.metrics = metrics
        self.is_draining = False
        self._hold_s = hold_s
        self._encoders = ThreadPoolExecutor(NUM_ENCODERS, "codescaler-encode")
        self._lock = threading.Lock()
        self._num_waiting_tokens = 0
        for model in models.models:
            scheduler = model.engine.scheduler
            scheduler.select = FairSelect()
            scheduler.coalesce_s = coalesce_s
            scheduler.burst_s = 0.0  # whoever calls here is always another thread

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens of accepted rows that have no score yet."""
        return self._num_waiting_tokens

    async def compute(self, job: Job, client: str, timeout_s: float, wait_for_leaving: Leave) -> Outcome:
        """Returns the scores of a job; its rows leave the queue if the client leaves first.

        Raises:
            Refusal: the model is unknown, the queue is full, the deadline passed, the client left, a score is not
                finite. CodescalerError: a row cannot be encoded.
        """
        model = self.models.find(job.model)
        if not job.rows:  # completions without a program
            return Outcome([], [], model.names[0])
        deadline = time.monotonic() + timeout_s
        loop = asyncio.get_running_loop()
        putting: asyncio.Future[Any] = loop.run_in_executor(self._encoders, self._put, model, job, client, deadline)
        leaving = asyncio.ensure_future(wait_for_leaving())
        futures: Sequence[Future[Float32]] = ()
        try:
            counts, futures = await _wait_unless(putting, leaving, deadline)
            waited = [asyncio.wrap_future(future) for future in futures]
            scores = await _wait_unless(asyncio.gather(*waited), leaving, deadline)
        finally:
            leaving.cancel()
            for future in futures:
                future.cancel()
        flat = [float(score) for score in chain.from_iterable(scores)]
        for index, score in enumerate(flat):
            if not math.isfinite(score):
                raise Refusal(500, "score_not_finite", f"row {index} scores {score}; look for non-finite weights")
        if job.use_activation:
            flat = [
                1.0 / (1.0 + math.exp(-score)) if score >= 0 else 1.0 - 1.0 / (1.0 + math.exp(score)) for score in flat
            ]
        return Outcome(flat, counts, model.names[0])

    def _put(
        self, model: ServedModel, job: Job, client: str, deadline: float
    ) -> tuple[list[int], list[Future[Float32]]]:
        """Encodes a job's rows and queues them, a forward's worth in a request so that others come in between."""
        engine = model.engine
        if time.monotonic() >= deadline:
            raise DeadlineExceeded("the deadline passed before the text was read; give a later one, or send fewer rows")
        started = time.perf_counter()
        with engine.scheduler.arrival():
            encoded = model.encode(job.rows)
            counts = [len(sequence) for sequence in encoded.sequences]
            self._hold(model, sum(counts))
            self.metrics.count_encoded(encoded, time.perf_counter() - started)
            futures = []
            for chunk in _cut(encoded.sequences, engine.scheduler.budget):
                future = engine.submit_tokens(chunk, client=client, deadline=deadline)
                future.add_done_callback(partial(self._release, sum(map(len, chunk))))
                futures.append(future)
        return counts, futures

    def _hold(self, model: ServedModel, num_tokens: int) -> None:
        engine = model.engine
        speed = engine.num_tokens / engine.forward_seconds if engine.forward_seconds > 1.0 else math.inf
        limit = UNMEASURED_TOKENS if speed == math.inf else speed * self._hold_s
        with self._lock:
            # A request that finds the queue empty is accepted, whatever its size.
            if self._num_waiting_tokens and self._num_waiting_tokens + num_tokens > limit:
                wait_s = 1 if speed == math.inf else round(min(30.0, max(1.0, num_tokens / speed)))
                raise Refusal(
                    503,
                    "queue_full",
                    f"{self._num_waiting_tokens} tokens wait and {num_tokens} more are above the limit of {limit:.0f}; "
                    f"come again in {wait_s} s, or start more servers",
                    retry_after_s=wait_s,
                )
            self._num_waiting_tokens += num_tokens

    def _release(self, num_tokens: int, _: Future[Float32]) -> None:
        with self._lock:
            self._num_waiting_tokens -= num_tokens

    def close(self) -> None:
        """Ends the threads that tokenize."""
        self._encoders.shutdown(wait=False, cancel_futures=True)


async def _wait_unless(result: "asyncio.Future[Any]", leaving: "asyncio.Future[Any]", deadline: float) -> Any:
    left_s = max(0.0, deadline - time.monotonic())
    await asyncio.wait([result, leaving], timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
    if result.done():
        return result.result()
    result.add_done_callback(_drop)
    if leaving.done():
        raise Refusal(499, "client_left", "the client closed the connection")
    raise DeadlineExceeded("no score at the deadline; give a larger X-Request-Timeout-Ms, or send fewer rows")


def _drop(ended: "asyncio.Future[Any]") -> None:
    """Takes what nobody waits for any more: rows that were queued meanwhile leave the queue."""
    if not ended.cancelled() and ended.exception() is None and isinstance(ended.result(), tuple):
        for future in ended.result()[1]:
            future.cancel()


def _cut(sequences: Sequence[Int32], budget: int) -> list[list[Int32]]:
    """Cuts sequences into pieces of at most `budget` tokens, shared ones counted often."""
    pieces: list[list[Int32]] = []
    room = 0
    for sequence in sequences:
        if not pieces or len(sequence) > room:
            pieces.append([])
            room = budget
        pieces[-1].append(sequence)
        room -= len(sequence)
    return pieces
