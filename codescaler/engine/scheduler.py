"""`Scheduler`: one queue for all callers of an engine.

A forward shares the prefixes of all that it computes, so callers are worth merging. While a forward runs, what arrives
waits. Then what waits becomes one forward, up to a budget of distinct tokens. The queue knows no model: it hands
requests to a function and gives each caller its own result.
"""

import os
import threading
import time
import weakref
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from codescaler.engine import worker
from codescaler.errors import DeadlineExceeded
from codescaler.ops.plan import KEY_BLOCK
from codescaler.text.token_ids import Int32, measure_common_prefix

if TYPE_CHECKING:
    from codescaler.engine.exits import Exits

Float32 = npt.NDArray[np.float32]
Want = Literal["scores", "features", "log_probs", "stages"]

# A turn of an idle engine waits at most ARRIVAL_S for callers that are encoding: 64 threads that start together have
# encoded a pair each by then. In a burst of threads it waits until none has come for BURST_S, the interval after which
# the interpreter lets the next thread run.
ARRIVAL_S = 0.05
BURST_S = 0.005
GPU_BURST_S = 0.001  # a forward of few pairs takes 4 ms there: to wait longer for pairs that may come costs more


@dataclass(eq=False)
class Request:
    """Sequences that one caller waits for, checked and encoded.

    Attributes:
        sequences: their ids; none is empty.
        wants: "scores" [B], "features" [B, D], or "log_probs": what `combine` makes of these. Or "stages": values at
            each of `exits`, then the score. Values are scores, [B, exits + 1], or without heads features,
            [B, exits * D + 1].
        first_read: the positions from which on sequences are read for log-probabilities, those of the tokens behind.
        combine: makes the result of log-probabilities, of which each sequence has an array.
        exits: where the forward stops on its way. The sequences are candidates of one problem.
        num_truncated, text_seconds: what encoding them did and took, for the engine's counters.
        client: who asks. It means nothing here; a rule that replaces `select_oldest` may read it.
        deadline: the request fails if it still waits then, by `time.monotonic`. None waits for any time.
        future: gives the result. Cancelling it takes a request that waits out of the queue.
        queued_at: when it was made, by `time.monotonic`.
    """

    sequences: Sequence[Int32]
    wants: Want = "scores"
    first_read: Sequence[int] = ()
    combine: Callable[[Sequence[Float32]], Float32] = np.concatenate
    exits: "Exits | None" = None
    num_truncated: int = 0
    text_seconds: float = 0.0
    client: str | None = None
    deadline: float | None = None
    future: Future[Float32] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.monotonic)

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of all sequences: at least what they cost."""
        return sum(map(len, self.sequences))

    @cached_property
    def beginning(self) -> bytes:
        """The first tokens of the first sequence: siblings, programs of one problem, have the same."""
        return self.sequences[0][:KEY_BLOCK].tobytes() if self.sequences else b""


Select = Callable[[Sequence[Request], int], Sequence[Request]]


def select_oldest(waiting: Sequence[Request], budget: int) -> Sequence[Request]:
    """Picks requests for the next forward: the oldest with its siblings, then the next oldest with its, ...

    It stops at the first that takes the distinct tokens above `budget`. The oldest is always among them, even if it is
    larger than the budget, so that no request waits for more turns than there are older ones.
    """
    if sum(request.num_tokens for request in waiting) <= budget:
        return waiting
    chosen: list[Request] = []
    tree = TokenCounter()
    for request in put_siblings_together(waiting):
        fits = tree.add(request.sequences, budget)
        if chosen and not fits:
            break
        chosen.append(request)
        if not fits:
            break
    return chosen


def put_siblings_together(requests: Iterable[Request]) -> list[Request]:
    """Returns requests family by family, a family at the place of its first request."""
    families: dict[bytes, list[Request]] = {}
    for request in requests:
        families.setdefault(request.beginning, []).append(request)
    return [*chain.from_iterable(families.values())]


class TokenCounter:
    """Counts the distinct tokens of a prefix tree while sequences join it."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self._keys: list[bytes] = []  # sorted; big-endian bytes sort as the ids do

    def add(self, sequences: Sequence[Int32], budget: int) -> bool:
        """Adds sequences and says whether all are within the budget."""
        for sequence in sequences:
            key = sequence.astype(">i4").tobytes()
            at = bisect(self._keys, key)
            # In sorted order, the longest common prefix is that with a neighbour.
            shared = max(
                (
                    measure_common_prefix(np.frombuffer(key, np.int32), np.frombuffer(other, np.int32))
                    for other in self._keys[max(at - 1, 0) : at + 1]
                ),
                default=0,
            )
            self._keys.insert(at, key)
            self.num_tokens += len(sequence) - shared
            if self.num_tokens > budget:
                return False
        return True


class Scheduler:
    """The queue of one engine. Its turns run on the process's worker thread, beside those of other engines.

    A turn takes what `select` picks of the requests that wait and computes it at once. If that raises, each request of
    the turn is computed alone, so that only the request at fault fails.

    Attributes:
        budget: distinct tokens of a turn. num_threads: CPU threads that a turn may use.
        select: the rule that picks requests; it must not wait. Where it picks none, the oldest is taken.
        coalesce_s: the oldest request waits at least this long for others; 0 suits callers of the same process.
        arrival_s: the oldest request waits at most this long for callers that have announced themselves.
        burst_s: in a burst of threads, a turn waits until none has come for this long.
    """

    def __init__(
        self, compute: Callable[[Sequence[Request]], Sequence[Float32]], *, budget: int, num_threads: int
    ) -> None:
        self.budget = budget
        self.num_threads = num_threads
        self.select: Select = select_oldest
        self.coalesce_s = 0.0
        self.arrival_s = ARRIVAL_S
        self.burst_s = BURST_S
        self._compute = compute
        self._reset()
        _schedulers.add(self)

    def _reset(self) -> None:
        """Forgets all requests. A forked child starts so: the threads that wait for them are its parent's."""
        self._changed = threading.Condition()
        self._waiting: list[Request] = []
        self._has_turn = False  # one is queued on the worker, or under way
        self._num_arriving = 0
        self._is_burst = False  # the last two arrivals were of two threads, so that others may be starting
        self._last_caller = threading.current_thread()
        self._last_arrival = 0.0

    def __len__(self) -> int:
        """The number of requests that wait."""
        return len(self._waiting)

    @contextmanager
    def arrival(self) -> Iterator[None]:
        """Announces a caller who is about to put a request: a turn that has not begun waits for it."""
        self.announce()
        try:
            yield
        finally:
            self.withdraw()

    def announce(self) -> None:
        """Begins an `arrival`."""
        caller = threading.current_thread()
        with self._changed:
            self._num_arriving += 1
            self._is_burst, self._last_caller = caller != self._last_caller, caller
            self._last_arrival = time.monotonic()

    def withdraw(self) -> None:
        """Ends an `arrival`, whether or not it has put a request."""
        with self._changed:
            self._num_arriving -= 1
            self._changed.notify()

    def put(self, request: Request) -> Future[Float32]:
        """Queues a request and returns its future."""
        with self._changed:
            self._waiting.append(request)
            has_turn, self._has_turn = self._has_turn, True
        if not has_turn:
            self._queue_turn()
        return request.future

    def _queue_turn(self) -> None:
        try:
            worker.submit(self.num_threads, self._take_turn)
        except RuntimeError as error:  # the interpreter is exiting, and waits for nothing that has not begun
            self._fail_waiting(error)

    def _take_turn(self) -> None:
        self._await_arrivals()
        try:
            chosen = self._take_requests()
        except BaseException as error:
            self._fail_waiting(error)
            return
        self._compute_or_retry(chosen)
        del chosen  # its arrays are the callers' now
        with self._changed:
            has_turn = self._has_turn = bool(self._waiting)
        if has_turn:
            self._queue_turn()

    def _await_arrivals(self) -> None:
        """Waits for callers who have announced themselves, and in a burst for those who are about to.

        A thread that also made the call before is alone, and waits for nobody who has not announced itself.
        """
        with self._changed:
            oldest = self._waiting[0].queued_at
            while True:
                until = oldest + self.coalesce_s
                if self._num_arriving:
                    until = max(until, oldest + self.arrival_s)
                if self._is_burst:
                    until = max(until, min(self._last_arrival + self.burst_s, oldest + self.arrival_s))
                left = until - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def _take_requests(self) -> list[Request]:
        """Takes what the rule picks out of the queue, and with it what was cancelled or has come to its deadline."""
        now = time.monotonic()
        with self._changed:
            waiting = list(self._waiting)
        cancelled = [request for request in waiting if request.future.cancelled()]
        late = [request for request in waiting if request.deadline is not None and request.deadline < now]
        removed = {*cancelled, *late}
        waiting = [request for request in waiting if request not in removed]
        chosen = list(self.select(waiting, self.budget) or waiting[:1])
        removed.update(chosen)
        with self._changed:
            self._waiting = [request for request in self._waiting if request not in removed]
        running = {request for request in removed if request.future.set_running_or_notify_cancel()}
        for request in running.intersection(late):
            waited = now - request.queued_at
            request.future.set_exception(
                DeadlineExceeded(f"the deadline passed while the request waited for {waited:.3f} s; give a later one")
            )
        return [request for request in chosen if request in running]

    def _compute_or_retry(self, requests: Sequence[Request]) -> None:
        if not requests:
            return
        try:
            results = self._compute(requests)
        except BaseException as error:
            if len(requests) == 1:
                requests[0].future.set_exception(error)
                return
            for request in requests:
                self._compute_or_retry([request])
            return
        for request, result in zip(requests, results, strict=True):
            request.future.set_result(result)

    def _fail_waiting(self, error: BaseException) -> None:
        with self._changed:
            waiting, self._waiting, self._has_turn = self._waiting, [], False
        for request in waiting:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(error)


_schedulers: "weakref.WeakSet[Scheduler]" = weakref.WeakSet()


def _reset_all() -> None:
    for scheduler in list(_schedulers):
        scheduler._reset()


os.register_at_fork(after_in_child=_reset_all)
