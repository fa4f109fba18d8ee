"""What requests hold until they end: `Holding` gives it back, and `SharedLimit` says how much clients may hold."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Any


class Holding:
    """What one request has taken. It is given back when the request ends, however that comes about.

    A thread may still take something for a request that has ended: this is given back at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._give_back: list[Callable[[], Any]] = []
        self.has_ended = False

    def add(self, give_back: Callable[[], Any]) -> None:
        """Calls `give_back` when the request ends, or now if it has ended."""
        with self._lock:
            if not self.has_ended:
                self._give_back.append(give_back)
                return
        give_back()

    def __enter__(self) -> "Holding":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._lock:
            self.has_ended = True
        while self._give_back:
            self._give_back.pop()()


class SharedLimit:
    """A limit on what all clients hold together, of which a client always has its fair part.

    A client is refused if the limit would be exceeded, and its own part too: the limit divided by the number of clients
    that hold something. So one client's backlog refuses nobody else. Of k clients that come one after the other, all
    hold at most 1 + 1/2 + ... + 1/k times the limit. Something larger than the limit counts as large as it.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._costs: dict[Hashable, float] = {}
        self._counts: dict[Hashable, int] = {}

    @property
    def num_held(self) -> int:
        """What all clients hold, in units."""
        with self._lock:
            return sum(self._counts.values())

    def take(self, client: Hashable, count: int, unit_cost: float = 1.0) -> "Share | None":
        """Returns what a client now holds, None if that is too much."""
        with self._lock:
            unit_cost = min(unit_cost, self.limit / max(count, 1))
            cost = count * unit_cost
            own = self._costs.get(client, 0.0)
            part = self.limit / len(self._costs.keys() | {client})
            if sum(self._costs.values()) + cost > self.limit and own + cost > part:
                return None
            self._costs[client] = own + cost
            self._counts[client] = self._counts.get(client, 0) + count
        return Share(self, client, count, unit_cost)

    def give_back(self, share: "Share", count: int) -> None:
        """Takes `count` units of a share back, at most what it still holds."""
        with self._lock:
            count = min(count, share.count)
            share.count -= count
            self._counts[share.client] = self._counts.get(share.client, 0) - count
            self._costs[share.client] = self._costs.get(share.client, 0.0) - count * share.unit_cost
            if self._counts[share.client] <= 0:
                del self._counts[share.client], self._costs[share.client]


@dataclass(eq=False)
class Share:
    """What a client holds of a limit for one request: `count` units, each of which costs `unit_cost`."""

    owner: SharedLimit
    client: Hashable
    count: int
    unit_cost: float

    def give_back(self, count: int | None = None) -> None:
        """Gives units back, by default all that are left."""
        self.owner.give_back(self, self.count if count is None else count)
