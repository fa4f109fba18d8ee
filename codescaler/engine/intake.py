"""`Intake`: what happens on a caller's thread. Encodes pairs or token lists, announces the caller, queues a request."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import Any

from codescaler.engine.exits import Exits
from codescaler.engine.likelihood import LikelihoodScorer
from codescaler.engine.options import is_list
from codescaler.engine.scheduler import Float32, Request, Scheduler, Want
from codescaler.errors import CodescalerError, InvalidInput
from codescaler.text.encoder import Encoder
from codescaler.text.program import Pair, join_names
from codescaler.text.token_ids import TokenLists

Encode = Callable[[], dict[str, Any]]  # returns fields of a request

TEXT_WINDOW = 256  # pairs tokenized at a time; siblings of one problem mostly fall into one window


class Intake:
    """Turns what callers give into requests of one scheduler. `settings` are fields of `scheduler.Request`.

    `scorer` makes the scores of pairs where it is given, the reward head does so elsewhere. Errors of encoding are
    raised here, before a request waits: they touch no other caller.
    """

    def __init__(self, encoder: Encoder, scheduler: Scheduler, scorer: LikelihoodScorer | None = None) -> None:
        self._encoder = encoder
        self._scheduler = scheduler
        self._scorer = scorer

    def put_tokens(self, ids: TokenLists, **settings: Any) -> Future[Float32]:
        """Queues token lists and returns a future of their result."""
        with self._scheduler.arrival():
            return self._put(lambda: self._encoder.encode_tokens(ids)._asdict(), settings)

    def put_pairs(self, pairs: Sequence[Pair], system: str | None = None, **settings: Any) -> Future[Float32]:
        """Encodes and queues pairs and returns a future of their scores."""
        encode = self._prepare_encoding(pairs, system)
        with self._scheduler.arrival():
            return self._put(encode, settings)

    async def compute_pairs(self, pairs: Sequence[Pair], system: str | None = None, **settings: Any) -> Float32:
        """Returns the scores of pairs, which are encoded on a thread of the event loop's executor."""
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

    def put_stages(
        self, pairs: Sequence[Pair], names: Sequence[str], system: str | None, exits: Exits
    ) -> Future[Float32]:
        """Encodes and queues the candidates of one problem, and returns a future of their values at exits."""

        def encode() -> dict[str, Any]:
            fields = self._encoder.encode_pairs(pairs, names, system)._asdict()
            return {**fields, "wants": "stages", "exits": exits}

        with self._scheduler.arrival():
            return self._put(encode, {})

    def stream_pairs(
        self,
        pairs: Iterable[Pair],
        names: Iterable[str] | None,
        system: str | None,
        *,
        wants: Want,
        scorer: LikelihoodScorer | None = None,
    ) -> Iterator[Float32]:
        """Yields the results of TEXT_WINDOW pairs at a time, in order.

        A window is encoded and queued while the forward of the window before runs. What has been computed is yielded
        before an error of a later window is raised. A stream that is closed cancels what still waits. `scorer` stands
        in place of the intake's own.
        """
        named = join_names(names, pairs)
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
                            named_pairs = ([pair for _, pair in window], [name for name, _ in window])
                            encode = partial(self._encode, *named_pairs, system, wants, scorer or self._scorer)
                            queued.append(self._put_window(encode, is_first=not queued))
                    except CodescalerError as error:
                        failure, is_last = error, True
                if len(queued) > (not is_last):
                    yield queued.popleft().result()
            if failure is not None:
                raise failure
        finally:
            for future in queued:
                future.cancel()

    def _put_window(self, encode: Encode, is_first: bool) -> Future[Float32]:
        # A later window is not announced, since the window before it would wait for it.
        with self._scheduler.arrival() if is_first else nullcontext():
            return self._put(encode, {})

    def _prepare_encoding(self, pairs: Sequence[Pair], system: str | None) -> Encode:
        names = [f"pairs[{index}]" for index in range(len(require_list(pairs)))]
        return partial(self._encode, pairs, names, system, "scores", self._scorer)

    def _encode(
        self,
        pairs: Sequence[Pair],
        names: Sequence[str],
        system: str | None,
        wants: Want,
        scorer: LikelihoodScorer | None,
    ) -> dict[str, Any]:
        """Returns fields of a request for these pairs."""
        if scorer is None or wants == "features":
            return {**self._encoder.encode_pairs(pairs, names, system)._asdict(), "wants": wants}
        sequences, starts = scorer.encode(self._encoder, pairs, names, system)
        first_read = [start - 1 for start in starts]  # a token is predicted by the one before
        return {"sequences": sequences, "wants": "log_probs", "first_read": first_read, "combine": scorer.combine}

    def _put(self, encode: Encode, settings: dict[str, Any]) -> Future[Float32]:
        started = time.perf_counter()
        fields = encode()
        text_seconds = time.perf_counter() - started
        return self._scheduler.put(Request(**fields, text_seconds=text_seconds, **settings))


def require_list(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Returns the pairs. Raises InvalidInput if they are no list."""
    if not is_list(pairs):
        raise InvalidInput(f"pairs is a {type(pairs).__name__}; give a list of (problem, response) pairs")
    return pairs
