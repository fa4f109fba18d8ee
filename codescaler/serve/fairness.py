"""Which requests go into the next forward: the client that has had the least comes first, and siblings stay together.

Fair queueing over distinct tokens (Demers, Keshav and Shenker, 1989): of clients that wait, none gets more than another
by more than a request. So a client that sends thousands of rows delays another by about one forward.
"""

from collections import deque
from collections.abc import Collection, Sequence

from codescaler.engine.scheduler import Request, TokenCounter, select_oldest


class FairSelect:
    """The rule of one engine's scheduler. Only the worker thread calls it."""

    def __init__(self) -> None:
        self._served: dict[str | None, int] = {}  # tokens that clients who wait have had, beyond the least of them

    def __call__(self, waiting: Sequence[Request], budget: int) -> Sequence[Request]:
        """Picks requests of at most `budget` distinct tokens; a single one may be larger."""
        requests: dict[str | None, list[Request]] = {}
        for request in waiting:
            requests.setdefault(request.client, []).append(request)
        if len(requests) < 2:
            self._served.clear()
            return select_oldest(waiting, budget)
        self._start_turn(requests.keys())
        queues = {client: deque(_put_siblings_together(queue)) for client, queue in requests.items()}
        chosen: list[Request] = []
        tree = TokenCounter()
        while queues:
            client = min(queues, key=self._served.__getitem__)  # of equals, the one whose request is the oldest
            before = tree.num_tokens
            fits = tree.add(queues[client][0].sequences, budget)
            if chosen and not fits:
                break
            chosen.append(queues[client].popleft())
            self._served[client] += tree.num_tokens - before
            if not fits:
                break
            if not queues[client]:
                del queues[client]
        return chosen

    def _start_turn(self, clients: Collection[str | None]) -> None:
        """Forgets clients who left. One who comes starts level with the one who has had the least."""
        known = {client: served for client, served in self._served.items() if client in clients}
        least = min(known.values(), default=0)
        self._served = {client: known.get(client, least) - least for client in clients}


def _put_siblings_together(queue: Sequence[Request]) -> list[Request]:
    families: dict[bytes, list[Request]] = {}
    for request in queue:
        families.setdefault(request.beginning, []).append(request)
    return [request for family in families.values() for request in family]
