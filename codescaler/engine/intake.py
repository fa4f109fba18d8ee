"""`Intake`: what happens on a caller's thread. Encodes pairs or token lists, announces the caller, queues a request."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial
from itertools import count, islice
from typing import Any

from codescaler.engine.options import is_list
from codescaler.engine.scheduler import Float32, Request, Scheduler
from codescaler.errors import CodescalerError, InvalidInput
from codescaler.text.encoder import Encoded, Encoder
from codescaler.text.program import Pair
from codescaler.text.token_ids import TokenLists

TEXT_WINDOW = 256  # pairs tokenized at a time; siblings of one problem mostly fall into one window


class Intake:
    """Turns what callers give into requests of one scheduler. `settings` are fields of `scheduler.Request`.

    Errors of encoding are raised here, before a request waits: they touch no other caller.
    """

    def __init__(self, encoder: Encoder, scheduler: Scheduler) -> None:
        self._encoder = encoder
        self._scheduler = scheduler

    def put_tokens(self, ids: TokenLists, **settings: Any) -> Future[Float32]:
        """Queues token lists and returns a future of their result."""
        with self._scheduler.arrival():
            return self._put(partial(self._encoder.encode_tokens, ids), settings)

    def put_pairs(self, pairs: Sequence[Pair], system: str | None = None, **settings: Any) -> Future[Float32]:
        """Encodes and queues pairs and returns a future of their result."""
        encode = self._prepare_encoding(pairs, system)
        with self._scheduler.arrival():
            return self._put(encode, settings)

    async def compute_pairs(self, pairs: Sequence[Pair], system: str | None = None, **settings: Any) -> Float32:
        """Returns the result of pairs, which are encoded on a thread of the event loop's executor."""
        encode = self._prepare_encoding(pairs, system)
        future: Future[Float32] = Future()  # made before the request, so that a task can be cancelled at any time

        def put() -> None:
            try:
                self._put(encode, settings | {"future": future})
            except BaseException as error:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
            finally:
                self._scheduler.withdraw()

        self._scheduler.announce()
        try:
            await asyncio.sleep(0)  # tasks that start in one step of the loop announce themselves before one encodes
            asyncio.get_running_loop().run_in_executor(None, put)
        except BaseException:
            self._scheduler.withdraw()
            raise
        return await asyncio.wrap_future(future)

    def stream_pairs(
        self, pairs: Iterable[Pair], names: Iterable[str] | None, system: str | None, *, wants_features: bool
    ) -> Iterator[Float32]:
        """Yields the results of TEXT_WINDOW pairs at a time, in order.

        A window is encoded and queued while the forward of the window before runs. What has been computed is yielded
        before an error of a later window is raised. A stream that is closed cancels what still waits.
        """
        named = zip(names or (f"pairs[{index}]" for index in count()), pairs, strict=False)
        queued: deque[Future[Float32]] = deque()
        failure: CodescalerError | None = None
        is_last = False
        try:
            while queued or not is_last:
                if not is_last:
                    try:
                        window = list(islice(named, TEXT_WINDOW))
                        is_last = not window
                        if window:
                            encode = self._prepare_window(window, system)
                            queued.append(self._put_window(encode, wants_features, is_first=not queued))
                    except CodescalerError as error:
                        failure, is_last = error, True
                if len(queued) > (not is_last):
                    yield queued.popleft().result()
            if failure is not None:
                raise failure
        finally:
            for future in queued:
                future.cancel()

    def _prepare_window(self, window: Sequence[tuple[str, Pair]], system: str | None) -> Callable[[], Encoded]:
        names, pairs = zip(*window, strict=True)
        return partial(self._encoder.encode_pairs, pairs, names, system)

    def _put_window(self, encode: Callable[[], Encoded], wants_features: bool, is_first: bool) -> Future[Float32]:
        # A later window is not announced, since the window before it would wait for it.
        with self._scheduler.arrival() if is_first else nullcontext():
            return self._put(encode, {"wants_features": wants_features})

    def _prepare_encoding(self, pairs: Sequence[Pair], system: str | None) -> Callable[[], Encoded]:
        names = [f"pairs[{index}]" for index in range(len(require_list(pairs)))]
        return partial(self._encoder.encode_pairs, pairs, names, system)

    def _put(self, encode: Callable[[], Encoded], settings: dict[str, Any]) -> Future[Float32]:
        started = time.perf_counter()
        sequences, num_truncated = encode()
        text_seconds = time.perf_counter() - started
        return self._scheduler.put(
            Request(sequences, num_truncated=num_truncated, text_seconds=text_seconds, **settings)
        )


def require_list(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Returns the pairs. Raises InvalidInput if they are no list."""
    if not is_list(pairs):
        raise InvalidInput(f"pairs is a {type(pairs).__name__}; give a list of (problem, response) pairs")
    return pairs
