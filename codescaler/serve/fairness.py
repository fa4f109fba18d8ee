"""Which requests go into the next forward: clients take turns, the oldest first, and siblings stay together.

Deficit round robin (Shreedhar and Varghese, 1995) over distinct tokens: a client that sends thousands of rows delays
another client by one turn at most.
"""

from collections import deque
from collections.abc import Sequence

from codescaler.engine.scheduler import Request, TokenCounter, select_oldest


class FairSelect:
    """The rule of one engine's scheduler. Only the worker thread calls it."""

    def __init__(self) -> None:
        self._deficits: dict[str | None, float] = {}

    def __call__(self, waiting: Sequence[Request], budget: int) -> Sequence[Request]:
        """Picks requests of at most `budget` distinct tokens; a single one may be larger."""
        queues: dict[str | None, deque[Request]] = {}
        for request in waiting:
            queues.setdefault(request.client, deque()).append(request)
        if len(queues) < 2:
            self._deficits.clear()
            return select_oldest(waiting, budget)
        queues = {client: deque(_put_siblings_together(queue)) for client, queue in queues.items()}
        # A client that was not among those who waited starts with nothing, and one that left keeps nothing.
        self._deficits = {client: self._deficits.get(client, 0.0) for client in queues}
        return self._take_turns(queues, budget)

    def _take_turns(self, queues: dict[str | None, deque[Request]], budget: int) -> list[Request]:
        chosen: list[Request] = []
        tree = TokenCounter()
        quantum = budget / len(queues)
        # Who is owed most comes first; of equals, who waits longest.
        turns = deque(sorted(queues, key=lambda client: -self._deficits[client]))
        while turns:
            client = turns.popleft()
            self._deficits[client] += quantum
            queue = queues[client]
            while queue and self._deficits[client] > 0:
                before = tree.num_tokens
                fits = tree.add(queue[0].sequences, budget)
                if chosen and not fits:
                    return chosen
                chosen.append(queue.popleft())
                self._deficits[client] -= tree.num_tokens - before
                if not fits:
                    return chosen
            if queue:
                turns.append(client)
            else:
                self._deficits[client] = 0.0
        return chosen


def _put_siblings_together(queue: Sequence[Request]) -> list[Request]:
    families: dict[bytes, list[Request]] = {}
    for request in queue:
        families.setdefault(request.beginning, []).append(request)
    return [request for family in families.values() for request in family]
