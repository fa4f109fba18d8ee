"""Containers that both sides hold: what one side changes, the other one sees when the next message comes.

A container that crosses gets a number in common, and each side remembers what was in it. A message carries every
container that has changed since. So a list is the same list on either side, however it got there. The judge gives up a
container when nothing else in its process refers to it.
"""

import itertools
import sys
from collections import deque
from collections.abc import Iterator
from operator import is_
from typing import Any


class Sharing:
    """The shared containers of one side. `first` is 0 for one side and 1 for the other, so that no number is twice."""

    def __init__(self, first: int) -> None:
        self._numbers = itertools.count(first, 2)
        self._containers: dict[int, list[Any]] = {}  # by number: the container, and what was in it
        self._number_of: dict[int, int] = {}

    def share(self, container: Any) -> int:
        """Returns the number of a container that is about to be sent."""
        number = self._number_of.get(id(container))
        if number is None:
            number = next(self._numbers)
            self._number_of[id(container)] = number
        self._containers[number] = [container, list_parts(container)]
        return number

    def get(self, number: Any, kind: type) -> Any:
        """Returns the container of a number, if there is one of this class; a new one otherwise, which has it now."""
        if type(number) is not int:
            raise TypeError("a container without a number")
        known = self._containers.get(number)
        if known is not None and isinstance(known[0], kind):
            return known[0]
        container = kind() if kind.__module__ in ("builtins", "collections") else object.__new__(kind)
        if known is not None:
            self._number_of.pop(id(known[0]), None)
        self._containers[number] = [container, ()]
        self._number_of[id(container)] = number
        return container

    def note(self, number: int) -> None:
        """What is in a container now is what the other side knows."""
        container = self._containers[number][0]
        self._containers[number][1] = list_parts(container)

    def find_changed(self) -> Iterator[Any]:
        """Yields the containers that hold something else than the other side knows."""
        for container, parts in list(self._containers.values()):
            now = list_parts(container)
            if len(now) != len(parts) or not all(map(is_, now, parts)):
                yield container

    def release(self, numbers: list[int]) -> None:
        """Gives up containers that the other side has given up."""
        for number in numbers:
            known = self._containers.pop(number, None)
            if known is not None:
                self._number_of.pop(id(known[0]), None)

    def release_unused(self) -> list[int]:
        """Gives up the containers that nothing else here refers to, and returns their numbers."""
        released = []
        for number in list(self._containers):
            if sys.getrefcount(self._containers[number][0]) <= 2:  # this table's, and that of the call
                self.release([number])
                released.append(number)
        return released


def list_parts(container: Any) -> tuple[Any, ...]:
    """What is in a container, by identity."""
    if isinstance(container, dict):
        return (*dict.keys(container), *dict.values(container))
    if isinstance(container, bytearray):
        return (bytes(container),)
    if isinstance(container, (set, list, deque)):
        return tuple(container)
    return tuple(itertools.chain.from_iterable(vars(container).items()))
