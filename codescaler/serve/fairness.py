"""Which client comes next: the one that has had the least. One rule, for forwards and for the threads that encode.

Fair queueing (Demers, Keshav and Shenker, 1989): of clients that wait, none gets more than another by more than a
request. While several clients call, a forward is no larger than the demand of the least of them. So a client that sends
thousands of rows delays a client of single rows by about the time of such a row.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

from codescaler.engine.scheduler import Request, TokenCounter, put_siblings_together

LINGER_S = 1.0  # after its last answer, a client still counts: it is about to send its next row
SLICE_S = 0.005  # of work, that a forward may hold whatever the demands: smaller ones would waste a GPU


class Ledger:
    """What clients have had, beyond the least of them."""

    def __init__(self) -> None:
        self._served: dict[Hashable, float] = {}

    def start_turn(self, waiting: Collection[Hashable], away: Collection[Hashable] = (), credit: float = 0.0) -> None:
        """Levels who waits. A client that comes starts with the least of the others.

        Clients in `away` are about to come back: they fall behind by at most `credit`. All others are forgotten.
        """
        known = [self._served[client] for client in waiting if client in self._served]
        level = min(known, default=0.0)
        served = {client: self._served.get(client, level) for client in waiting}
        for client in away:
            served[client] = max(self._served.get(client, level), level - credit)
        least = min(served.values(), default=0.0)
        self._served = {client: had - least for client, had in served.items()}

    def get_served(self, client: Hashable) -> float:
        """Returns what a client has had."""
        return self._served[client]

    def add_cost(self, client: Hashable, cost: float) -> None:
        """Adds what a client gets now."""
        self._served[client] += cost


@dataclass
class _Demand:
    """The most tokens of a client that waited at once, and when it last waited or was answered."""

    num_tokens: int
    seen_at: float


class FairSelect:
    """The rule of one engine's scheduler. Only the worker thread calls it.

    `measure_speed` gives the tokens that the engine computes in a second.
    """

    def __init__(self, measure_speed: Callable[[], float]) -> None:
        self._measure_speed = measure_speed
        self._ledger = Ledger()
        self._demands: dict[str | None, _Demand] = {}
        self._answered: Collection[str | None] = ()

    def __call__(self, waiting: Sequence[Request], budget: int) -> Sequence[Request]:
        """Picks requests of at most `budget` distinct tokens; a single one may be larger."""
        queues: dict[str | None, list[Request]] = {}
        for request in waiting:
            queues.setdefault(request.client, []).append(request)
        self._watch(queues)
        if len(self._demands) > 1:
            budget = min(budget, self._limit_turn())
        self._ledger.start_turn(queues.keys(), self._demands.keys() - queues.keys(), budget)
        chosen = self._choose(waiting, queues, budget)
        self._answered = {request.client for request in chosen}
        return chosen

    def _watch(self, queues: dict[str | None, list[Request]]) -> None:
        """Notes who calls and how much. Whoever was in the turn before has been answered a moment ago."""
        now = time.monotonic()
        for client in self._answered:
            if client in self._demands:
                self._demands[client].seen_at = now
        self._demands = {c: demand for c, demand in self._demands.items() if now - demand.seen_at < LINGER_S}
        for client, queue in queues.items():
            demand = self._demands.setdefault(client, _Demand(0, now))
            demand.num_tokens = max(demand.num_tokens, sum(request.num_tokens for request in queue))
            demand.seen_at = now

    def _limit_turn(self) -> int:
        least = min(demand.num_tokens for demand in self._demands.values())
        return max(least, int(SLICE_S * self._measure_speed()))

    def _choose(
        self, waiting: Sequence[Request], queues: dict[str | None, list[Request]], budget: int
    ) -> Sequence[Request]:
        if sum(request.num_tokens for request in waiting) <= budget:
            for request in waiting:
                self._ledger.add_cost(request.client, request.num_tokens)
            return waiting
        ordered = {client: deque(put_siblings_together(queue)) for client, queue in queues.items()}
        chosen: list[Request] = []
        tree = TokenCounter()
        fits = True
        while fits and ordered:
            client = min(ordered, key=self._ledger.get_served)  # of equals, the one whose request is the oldest
            before = tree.num_tokens
            fits = tree.add(ordered[client][0].sequences, budget)
            if chosen and not fits:
                break
            chosen.append(ordered[client].popleft())
            self._ledger.add_cost(client, tree.num_tokens - before)
            if not ordered[client]:
                del ordered[client]
        return chosen
