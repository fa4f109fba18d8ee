"""`Service`: jobs to scores on the engines' schedulers, with deadlines, a bounded queue, and clients that leave."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from typing import Any, NamedTuple, TypeAlias

from codescaler.engine import Engine
from codescaler.engine.intake import TEXT_WINDOW
from codescaler.engine.scheduler import Float32, TokenCounter
from codescaler.errors import DeadlineExceeded
from codescaler.serve.fair_pool import FairPool
from codescaler.serve.fairness import FairSelect
from codescaler.serve.holding import Holding, SharedLimit
from codescaler.serve.job import Job, Outcome, Row
from codescaler.serve.metrics import Metrics
from codescaler.serve.models import EncodedRows, ModelRegistry, ServedModel
from codescaler.serve.refusal import Refusal
from codescaler.text.token_ids import Int32

Leave: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

COALESCE_S = 0.0015  # that an idle engine waits for siblings of the first row: a connection takes less to arrive
HOLD_S = 120.0  # of work may wait. OpenRLHF waits 180 s on an open connection, and gives up after 5 s of refusals
NUM_ENCODERS = 2  # threads that tokenize: `tokenizers` lets go of the interpreter lock
UNMEASURED_TOKENS = 1 << 20  # that may wait before a first forward has shown how fast the engine is
MIN_FORWARDS = 8  # that may wait at any speed: forwards of single short rows look slow, and thousands fill a few
MAX_TOKENS = 1 << 24  # of one request, with shared ones counted for each row
MAX_HELD_BYTES = 1 << 30  # of bodies whose requests have no answer yet: texts stay until then


class _Queued(NamedTuple):
    """A job on an engine's queue, without its rows: their tokens, and the future of each part."""

    job: Job
    model: ServedModel
    num_tokens: list[int]
    futures: list[Future[Float32]]


class Service:
    """The models, the queue and its limits. `coalesce_s` and `hold_s` as the constants above."""

    def __init__(
        self, models: ModelRegistry, metrics: Metrics, *, coalesce_s: float = COALESCE_S, hold_s: float = HOLD_S
    ) -> None:
        self.models = models
        self.metrics = metrics
        self.is_draining = False
        self._encoders = FairPool(NUM_ENCODERS)
        self._bodies = SharedLimit(MAX_HELD_BYTES)
        self._queue = SharedLimit(hold_s)  # in seconds: all engines of a process take turns on one thread
        self._paces = {model.engine: _Pace(model.engine) for model in models.models}
        for model in models.models:
            scheduler = model.engine.scheduler
            scheduler.select = FairSelect(partial(_measure_speed, model.engine))
            scheduler.coalesce_s = coalesce_s
            scheduler.burst_s = 0.0  # whoever calls here is always another thread

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens of accepted rows that have no score yet; those that rows of a request share count once."""
        return self._queue.num_held

    def hold_body(self, client: str, num_bytes: int, holding: Holding) -> None:
        """Counts bytes of a body until its request ends.

        Raises: Refusal, with status 503 if the client holds too many already.
        """
        share = self._bodies.take(client, num_bytes)
        if share is None:
            raise Refusal(503, "too_many_bytes", "too many bytes of requests wait; come again in 1 s", retry_after_s=1)
        holding.add(share.give_back)

    async def compute(
        self,
        read_job: Callable[[], Job],
        num_bytes: int,
        client: str,
        timeout_s: float,
        wait_for_leaving: Leave,
        holding: Holding,
    ) -> tuple[Job, Outcome]:
        """Returns a job and its scores; its rows leave the queue when `holding` ends, as when the client leaves.

        `read_job` makes the job of a body of `num_bytes`. It runs on a thread that encodes.

        Raises:
            Refusal: the model is unknown, the queue is full, the deadline passed, the client left, a score is not
                finite. CodescalerError: a row cannot be encoded.
        """
        deadline = time.monotonic() + timeout_s
        leaving = asyncio.ensure_future(wait_for_leaving())
        holding.add(leaving.cancel)
        put = partial(self._put, read_job, num_bytes, client, deadline, holding)
        putting = self._encoders.submit(put, client=client, num_bytes=num_bytes)
        holding.add(putting.cancel)
        queued: _Queued = await _wait_unless(asyncio.wrap_future(putting), leaving, deadline)
        waited = [asyncio.wrap_future(future) for future in queued.futures]
        scores = await _wait_unless(asyncio.gather(*waited), leaving, deadline)
        flat = [float(score) for score in chain.from_iterable(scores)]
        for index, score in enumerate(flat):
            if not math.isfinite(score):
                raise Refusal(500, "score_not_finite", f"row {index} scores {score}; look for non-finite weights")
        if queued.job.use_activation:
            flat = [_apply_logistic(score) for score in flat]
        return queued.job, Outcome(flat, queued.num_tokens, queued.model.names[0], queued.model.calibration)

    def _put(
        self, read_job: Callable[[], Job], num_bytes: int, client: str, deadline: float, holding: Holding
    ) -> _Queued:
        """Encodes a job's rows and queues them, a forward's worth in a request so that others come in between."""
        job = read_job()
        model = self.models.find(job.model)
        if time.monotonic() >= deadline or holding.has_ended:
            raise DeadlineExceeded("the deadline passed before the text was read; give a later one, or send fewer rows")
        if not job.rows:  # completions without a program
            return _Queued(job, model, [], [])
        engine = model.engine
        futures: list[Future[Float32]] = []
        with engine.scheduler.arrival():
            num_chars = model.check_sizes(job.rows)
            self._encoders.charge(client, num_bytes, num_chars)
            encoded = self._encode(model, job.rows, holding)
            job = replace(job, rows=())  # texts beyond those of the body, which no limit counts
            counts = [len(sequence) for sequence in encoded.sequences]
            if sum(counts) > MAX_TOKENS:
                message = f"the request has {sum(counts)} tokens; send at most {MAX_TOKENS} at a time"
                raise Refusal(400, "too_many_tokens", message)
            chunks = _cut(encoded.sequences, engine.scheduler.budget)
            costs = _count_distinct(chunks)
            give_back = self._hold(model, client, sum(costs), holding)
            for chunk, cost in zip(chunks, costs, strict=True):
                future = engine.submit_tokens(chunk, client=client, deadline=deadline)
                holding.add(future.cancel)
                future.add_done_callback(partial(self._paces[engine].add, cost))
                future.add_done_callback(partial(_call_with, give_back, cost))
                futures.append(future)
        return _Queued(job, model, counts, futures)

    def _encode(self, model: ServedModel, rows: Sequence[Row], holding: Holding) -> EncodedRows:
        """Encodes rows in parts, so that it can stop when nobody waits for them any more."""
        started = time.perf_counter()
        parts: list[EncodedRows] = []
        for first in range(0, len(rows), TEXT_WINDOW):
            if holding.has_ended:
                raise Refusal(499, "client_left", "nobody waits for the rows any more")
            parts.append(model.encode(rows[first : first + TEXT_WINDOW], first))
        encoded = EncodedRows.join(parts)
        self.metrics.count_encoded(encoded, time.perf_counter() - started)
        return encoded

    def _hold(self, model: ServedModel, client: str, num_tokens: int, holding: Holding) -> Callable[[int], None]:
        """Counts tokens until they have a score or the request ends; returns what gives some of them back."""
        limit_s = self._queue.limit
        least = MIN_FORWARDS * model.engine.scheduler.budget / limit_s
        token_s = 1.0 / max(self._paces[model.engine].measure() or UNMEASURED_TOKENS / limit_s, least)
        share = self._queue.take((client, model.names[0]), num_tokens, token_s)
        if share is None:
            wait_s = round(min(30.0, max(1.0, num_tokens * token_s)))
            raise Refusal(
                503,
                "queue_full",
                f"{self.num_waiting_tokens} tokens wait, and {num_tokens} more would wait for above {limit_s:.0f} s; "
                f"come again in {wait_s} s, or start more servers",
                retry_after_s=wait_s,
            )
        holding.add(share.give_back)
        return share.give_back

    def close(self) -> None:
        """Ends the threads that tokenize."""
        self._encoders.close()


def _measure_speed(engine: Engine) -> float:
    """Returns the distinct tokens of a second so far, 0 while too few have been computed to tell."""
    return engine.num_distinct_tokens / engine.forward_seconds if engine.forward_seconds > 1.0 else 0.0


class _Pace:
    """How fast tokens leave an engine's queue. Requests share some of them, so it is more than the engine computes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._since_s = engine.forward_seconds
        self._num_tokens = 0

    def add(self, num_tokens: int, future: "Future[Float32]") -> None:
        """Counts the tokens of a part that has its scores."""
        if not future.cancelled() and future.exception() is None:
            self._num_tokens += num_tokens

    def measure(self) -> float:
        """Returns the tokens of a second, 0 while too few have left to tell."""
        seconds = self._engine.forward_seconds - self._since_s
        return self._num_tokens / seconds if seconds > 1.0 else 0.0


def _count_distinct(parts: Sequence[Sequence[Int32]]) -> list[int]:
    """Counts the tokens that each part adds to those before it: lines of a trace share most of theirs."""
    tree = TokenCounter()
    counts = [0]
    for part in parts:
        tree.add(part, MAX_TOKENS)
        counts.append(tree.num_tokens)
    return [after - before for before, after in pairwise(counts)]


def _call_with(give_back: Callable[[int], None], num_tokens: int, _: object) -> None:
    give_back(num_tokens)


async def _wait_unless(result: "asyncio.Future[Any]", leaving: "asyncio.Future[Any]", deadline: float) -> Any:
    left_s = max(0.0, deadline - time.monotonic())
    await asyncio.wait([result, leaving], timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
    if result.done():
        return result.result()
    result.add_done_callback(_take_error)
    if leaving.done():
        raise Refusal(499, "client_left", "the client closed the connection")
    raise DeadlineExceeded("no score at the deadline; give a larger X-Request-Timeout-Ms, or send fewer rows")


def _take_error(ended: "asyncio.Future[Any]") -> None:
    """Takes the error of what nobody waits for any more: asyncio logs an error that nobody took."""
    if not ended.cancelled():
        ended.exception()


def _apply_logistic(score: float) -> float:
    return 1.0 / (1.0 + math.exp(-score)) if score >= 0 else 1.0 - 1.0 / (1.0 + math.exp(score))


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
