"""Inputs of three kinds, from a problem's own: varied at random, small and exhaustive, and at the limits.

What holds in all own calls counts as a condition of the problem (`list_facts`), and holds in what is made.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, product, zip_longest
from typing import Any

from codescaler.data.execution.examples import Call, Examples
from codescaler.data.label.generated_tests import list_facts, vary_calls

_MAX_SMALL = 3  # values of one argument
_MAX_VARIED = 7  # arguments: all calls with three values of each are 2187 then
_LONG = 40  # parts of a long list


def make_call_inputs(calls: Sequence[Call], count: int, source: random.Random) -> list[Call]:
    """Up to `count` new calls, of the three kinds in turn. The own calls are not among them."""
    kinds = (vary_calls(calls, count, source), make_limits(calls), make_small(calls, source))
    known = {repr(call) for call in calls}
    made: dict[str, Call] = {}
    for turn in zip_longest(*kinds):
        for call in turn:
            if call is not None and repr(call) not in known:
                made.setdefault(repr(call), call)
    return list(islice(made.values(), count))


def write_inputs(examples: Examples, count: int, source: random.Random) -> list[str]:
    """The texts of a problem's own calls, and of up to `count` new ones."""
    return list(map(examples.write, (*examples.calls, *make_call_inputs(examples.calls, count, source))))


def make_small(calls: Sequence[Call], source: random.Random) -> list[Call]:
    """All calls whose arguments are among the smallest values of their own kind, in a random order.

    These are three of each argument, and one if there are many arguments.
    """
    columns = list(zip(*calls, strict=True))
    most = _MAX_SMALL if len(columns) <= _MAX_VARIED else 1
    values = [sorted(_list_small(column), key=_measure_size)[:most] for column in columns]
    made = _keep_facts(product(*values), calls)
    source.shuffle(made)
    return made


def _list_small(column: Sequence[Any]) -> Iterator[Any]:
    seen: set[str] = set()
    for value in [*column, *(part for whole in column for part in _shorten(whole))]:
        if repr(value) not in seen:
            seen.add(repr(value))
            yield value


def _shorten(value: Any) -> Iterator[Any]:
    """The value with fewer parts, or a number next to it and towards zero."""
    if isinstance(value, (list, tuple, str)):
        yield from (value[:length] for length in range(min(len(value), _MAX_SMALL)))
    elif type(value) is int:
        yield from (number for number in (0, 1, value - 1) if abs(number) <= abs(value))


def _measure_size(value: Any) -> tuple[float, str]:
    is_sized = isinstance(value, (list, tuple, str, dict, set))
    return (len(value) if is_sized else abs(value) if isinstance(value, (int, float)) else 0.0), repr(value)


def make_limits(calls: Sequence[Call]) -> list[Call]:
    """Calls with one argument at a limit: empty, one part, ties, sorted both ways, long, and the extremes seen."""
    columns = list(zip(*calls, strict=True))
    changed = (
        (*call[:place], value, *call[place + 1 :])
        for place, column in enumerate(columns)
        for call in calls
        for value in _list_limits(call[place], column)
    )
    return _keep_facts(changed, calls)


def _list_limits(value: Any, column: Sequence[Any]) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        numbers = [number for number in column if isinstance(number, (int, float))]
        yield from (min(numbers), max(numbers))
    elif isinstance(value, str):
        yield from ("", value[:1], value[:1] * len(value), value[::-1], value * 2)
    elif isinstance(value, list):
        yield from ([], value[:1], value[:1] * max(len(value), 2), value[::-1])
        yield (value * _LONG)[:_LONG]
        for is_falling in (False, True):
            try:
                yield sorted(value, reverse=is_falling)
            except TypeError:
                return
    elif isinstance(value, dict):
        yield from ({}, dict(list(value.items())[:1]))


def _keep_facts(made: Iterable[Call], calls: Sequence[Call]) -> list[Call]:
    kept: Callable[[Call], bool] = set.intersection(*map(list_facts, calls)).issubset
    distinct = {repr(call): call for call in made}
    return [call for call in distinct.values() if kept(list_facts(call))]  # type: ignore[arg-type]
