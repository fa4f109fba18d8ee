"""Classes of inputs at the edges of a type, and which of them tests leave out. Knows values only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from codescaler.data.audit.constraints import Constraint, find_violations

_Test = Callable[[Any], bool]
_LARGE = 10**5

# Of each type: a name, whether a value is of the class, and a value of it that constraints may forbid.
_CLASSES: Mapping[type, Mapping[str, tuple[_Test, Any]]] = {
    bool: {"true": (lambda x: x is True, True), "false": (lambda x: x is False, False)},
    int: {
        "zero": (lambda x: x == 0, 0),
        "negative": (lambda x: x < 0, -1),
        "large": (lambda x: abs(x) >= _LARGE, _LARGE),
    },
    float: {
        "zero": (lambda x: x == 0, 0.0),
        "negative": (lambda x: x < 0, -1.0),
        "fraction": (lambda x: x != int(x), 0.5),
    },
    str: {
        "empty": (lambda x: not x, ""),
        "one character": (lambda x: len(x) == 1, "a"),
        "repeated character": (lambda x: len(set(x)) < len(x), "aa"),
    },
    list: {
        "empty": (lambda x: not x, []),
        "one element": (lambda x: len(x) == 1, [1]),
        "repeated element": (lambda x: len(set(map(repr, x))) < len(x), [1, 1]),
        "negative element": (lambda x: any(_is_number(part) and part < 0 for part in x), [-1]),
    },
    dict: {"empty": (lambda x: not x, {}), "one key": (lambda x: len(x) == 1, {1: 1})},
}


def find_edge_cases(
    calls: Sequence[Mapping[str, Any]], constraints: Sequence[Constraint]
) -> tuple[list[str], list[str]]:
    """Classes of each argument that calls cover, and classes that none of them does.

    The type of an argument is that of all its values. An argument of several types, or of another type, has no class.
    A class whose value breaks a constraint is none, nor is "negative element" of lists that hold no number.
    """
    covered, missing = [], []
    for name in dict.fromkeys(name for call in calls for name in call):
        values = [call[name] for call in calls if name in call]
        kinds = {list if isinstance(value, tuple) else type(value) for value in values}
        if len(kinds) != 1:
            continue
        for label, (is_in, example) in _CLASSES.get(kinds.pop(), {}).items():
            if label == "negative element" and not any(_is_number(part) for value in values for part in value):
                continue
            if any(map(is_in, values)):
                covered.append(f"{name}: {label}")
            elif not find_violations({name: example}, constraints):
                missing.append(f"{name}: {label}")
    return covered, missing


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
