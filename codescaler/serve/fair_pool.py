"""`FairPool`: the threads that read bodies and encode rows. The client whose bodies have cost the least comes first."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from codescaler.serve.fairness import Ledger

LARGE_BYTES = 1 << 18  # the body of a batch. One thread is left to smaller ones, so that these never wait for a batch
CALL_BYTES = 1 << 12  # that a call costs besides its body

Kind: TypeAlias = tuple[str, bool]  # a client, and whether the bodies are large


@dataclass(eq=False)
class _Call:
    run: Callable[[], Any]
    kind: Kind
    cost: int
    future: "Future[Any]" = field(default_factory=Future)


class FairPool:
    """Threads that run calls of clients. A call that is cancelled before it begins leaves at once."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._changed = threading.Condition()
        self._queues: dict[Kind, dict[_Call, None]] = {}
        self._ledger = Ledger()
        self._num_large = 0
        self._is_closed = False
        for number in range(num_threads):
            threading.Thread(target=self._run, name=f"codescaler-encode-{number}", daemon=True).start()

    def submit(self, run: Callable[[], Any], *, client: str, num_bytes: int) -> "Future[Any]":
        """Queues a call that reads a body of `num_bytes`, and returns the future of its result."""
        call = _Call(run, (client, num_bytes > LARGE_BYTES), num_bytes + CALL_BYTES)
        with self._changed:
            self._queues.setdefault(call.kind, {})[call] = None
            self._changed.notify()
        call.future.add_done_callback(partial(self._remove, call))
        return call.future

    def charge(self, client: str, num_bytes: int, num_chars: int) -> None:
        """Tells what a call that runs, with a body of `num_bytes`, really reads: rows may repeat what it holds once."""
        kind = (client, num_bytes > LARGE_BYTES)
        with self._changed:
            if kind in self._queues:  # the ledger forgets whoever waits for nothing
                self._ledger.start_turn(self._queues.keys())
                self._ledger.add_cost(kind, max(0, num_chars - num_bytes))

    def close(self) -> None:
        """Ends the threads, and cancels what waits."""
        with self._changed:
            self._is_closed = True
            waiting = [call for queue in self._queues.values() for call in queue]
            self._changed.notify_all()
        for call in waiting:
            call.future.cancel()

    def _remove(self, call: _Call, _: "Future[Any]") -> None:
        with self._changed:
            queue = self._queues.get(call.kind, {})
            queue.pop(call, None)
            if not queue:
                self._queues.pop(call.kind, None)

    def _take(self) -> _Call | None:
        """Takes the next call out, None if there is none that may begin now."""
        has_room = self._num_large < max(1, self._num_threads - 1)
        kinds = [kind for kind in self._queues if has_room or not kind[1]]
        if not kinds:
            return None
        self._ledger.start_turn(self._queues.keys())
        call = next(iter(self._queues[min(kinds, key=self._ledger.get_served)]))
        self._ledger.add_cost(call.kind, call.cost)
        self._num_large += call.kind[1]
        del self._queues[call.kind][call]
        if not self._queues[call.kind]:
            del self._queues[call.kind]
        return call

    def _run(self) -> None:
        while True:
            with self._changed:
                while (call := self._take()) is None:
                    if self._is_closed:
                        return
                    self._changed.wait()
            if call.future.set_running_or_notify_cancel():
                try:
                    call.future.set_result(call.run())
                except BaseException as error:
                    call.future.set_exception(error)
            with self._changed:
                self._num_large -= call.kind[1]
                if call.kind[1]:
                    self._changed.notify()
            del call  # its body and its error are the caller's now
