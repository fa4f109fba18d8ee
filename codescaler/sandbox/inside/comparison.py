"""Whether the value that a function returned is the value of JSON that a test expects, by the rules of benchmarks.

Comparisons look at plain data alone. What the program keeps in its process equals nothing, whatever its methods say.
"""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

_SCALARS = (type(None), bool, int, float, complex, str, Decimal, Fraction)

NAME = "_is_expected"  # by which the tests call the rule


def choose_comparison(rule: str | None) -> dict[str, Callable[[Any, Any], bool]]:
    """Returns the names that a rule adds to those of the tests."""
    return {} if rule is None else {NAME: _RULES[rule]}


def _is_equal(value: Any, expected: Any) -> bool:
    """Whether Python's `==` holds, where `expected` is of JSON."""
    if isinstance(expected, list):
        return isinstance(value, list) and len(value) == len(expected) and all(map(_is_equal, value, expected))
    if isinstance(expected, dict):
        if not isinstance(value, dict) or len(value) != len(expected):
            return False
        is_plain = all(isinstance(key, _SCALARS) for key in value)
        return is_plain and all(key in value and _is_equal(value[key], part) for key, part in expected.items())
    return isinstance(value, _SCALARS) and bool(value == expected)


def _is_expected_by_livecodebench(value: Any, expected: Any) -> bool:
    """A tuple counts as a list, but not in another list."""
    return _is_equal(list(value) if isinstance(value, tuple) else value, expected)


def _is_expected_by_apps(value: Any, expected: Any) -> bool:
    """What is expected may stand in a list of its own. Tuples in a list count as lists, if the first is one."""
    value = list(value) if isinstance(value, tuple) else value
    if _is_equal(value, expected):
        return True
    if not isinstance(expected, list) or not expected:
        return False
    if _is_equal(value, expected[0]):
        return True
    if not isinstance(value, list) or not value or not isinstance(value[0], tuple):
        return False
    return all(isinstance(row, (list, tuple)) for row in value) and _is_equal(list(map(list, value)), expected[0])


_RULES: dict[str, Callable[[Any, Any], bool]] = {
    "livecodebench": _is_expected_by_livecodebench,
    "apps": _is_expected_by_apps,
}
