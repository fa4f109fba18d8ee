"""Conditions on inputs that a statement writes as inequalities, such as `1 <= nums.length <= 10^5`.

A limit that cannot be read is none. `105` may be 10^5 with its exponent lost on the way, as in many published sets, so
the larger one counts.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Part = Literal["value", "length", "element"]

_DIGITS = r"\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?!\d)|\d[\d,_]*"  # also `1 000`
_NUMBER = rf"-?\s*(?:{_DIGITS})(?:\s*(?:\^|\*\*)\s*\{{?\d+\}}?)?(?:\s*\*\s*\d+(?:\s*(?:\^|\*\*)\s*\{{?\d+\}}?)?)?"
_END = r"(?![\d^A-Za-z]|\s*[*+/]\s*[A-Za-z(])"  # a limit such as `2n` is none
_NAME = r"\|?[A-Za-z_]\w*(?:\.length|\.size\(\)|\[\w+\])*\|?|len\(\w+\)|length\s+of\s+[A-Za-z_]\w*"
_RANGE = re.compile(rf"({_NUMBER})\s*(<=|<)\s*((?:{_NAME})(?:\s*,\s*(?:{_NAME}))*)\s*(<=|<)\s*({_NUMBER}{_END})?")
_SIGNS = {
    "≤": "<=",
    "⩽": "<=",
    "\\leq": "<=",
    "\\le": "<=",
    "&lt;": "<",
    "\u2212": "-",
    "\u00b7": "*",
    "\u22c5": "*",
    "\u00d7": "*",
    "\\cdot": "*",
    "$": "",
}
_LOST_EXPONENT = re.compile(r"(?<!\d)10(\d{1,2})$")
_FIRST_LINE = re.compile(
    r"first line[^.\n]*?\b(?:contains?|consists? of|has)\b[^.\n(]*?\b(?:integers?|numbers?)\s+"
    r"([A-Za-z]\w*(?:\s*(?:,|and)\s*[A-Za-z]\w*)*)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Constraint:
    """Limits of a named input, of its length, or of its elements; None where there is none."""

    name: str
    part: Part
    low: int | None
    high: int | None


def read_constraints(statement: str) -> list[Constraint]:
    """The constraints that can be read of a statement, in order."""
    for sign, plain in _SIGNS.items():
        statement = statement.replace(sign, plain)
    found: dict[Constraint, None] = {}
    for low, low_sign, names, high_sign, high in _RANGE.findall(statement):
        least, most = _read_number(low, is_upper=False), _read_number(high, is_upper=True)
        least = least + 1 if least is not None and low_sign == "<" else least
        most = most - 1 if most is not None and high_sign == "<" else most
        for name in names.split(","):
            target, part = _read_target(name.strip())
            if least is not None or most is not None:
                found[Constraint(target, part, least, most)] = None
    return list(found)


def _read_number(text: str, *, is_upper: bool) -> int | None:
    text = re.sub(r"[\s,_{}]", "", text).replace("**", "^")
    if not text:
        return None
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    product = 1
    for factor in text.split("*"):
        base, _, exponent = factor.partition("^")
        if not base.isdigit() or (exponent and not exponent.isdigit()) or int(exponent or 1) > 1000:
            return None
        product *= int(base) ** int(exponent or 1)
    lost = _LOST_EXPONENT.search(text)
    if lost and (is_upper or sign < 0):
        product = max(product, product // int(lost[0]) * 10 ** int(lost[1]))
    return sign * product


def _read_target(name: str) -> tuple[str, Part]:
    bare = re.sub(r"\[\w+\]|\.length|\.size\(\)|\||len\(|\)|length\s+of\s+", "", name)
    is_length = any(word in name for word in (".length", ".size", "|", "len(", "length"))
    if "[" in name:
        return (f"{name} of each", "length") if is_length else (bare, "element")  # the first is no argument
    return bare, "length" if is_length else "value"


def find_violations(arguments: Mapping[str, Any], constraints: Iterable[Constraint]) -> list[str]:
    """What an input breaks, in words. A constraint on a name that is no argument says nothing."""
    broken = []
    for constraint in constraints:
        if constraint.name not in arguments:
            continue
        for number in _list_numbers(arguments[constraint.name], constraint.part):
            if (constraint.low is not None and number < constraint.low) or (
                constraint.high is not None and number > constraint.high
            ):
                what = {"value": "", "length": "the length of ", "element": "an element of "}[constraint.part]
                broken.append(f"{what}{constraint.name} is {number!s:.40}, not {_describe_range(constraint)}")
                break
    return broken


def _describe_range(constraint: Constraint) -> str:
    low = "" if constraint.low is None else f"{constraint.low} or more"
    high = "" if constraint.high is None else f"{constraint.high} or less"
    return " and ".join(filter(None, (low, high)))


def _list_numbers(value: Any, part: Part) -> list[float]:
    if part == "length":
        return [len(value)] if isinstance(value, (str, list, tuple, dict, set)) else []
    values = _flatten(value) if part == "element" else [value]
    return [number for number in values if isinstance(number, (int, float)) and not isinstance(number, bool)]


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple, set)):
        return [leaf for part in value for leaf in _flatten(part)]
    return [value]


def read_first_line(statement: str) -> list[str]:
    """The names of the numbers in the first line of standard input, as far as a statement says."""
    matched = _FIRST_LINE.search(statement)
    return [] if matched is None else [name for name in re.split(r"\s*(?:,|\band\b)\s*", matched[1]) if name]


def name_first_line(stdin: str, names: Sequence[str]) -> dict[str, int]:
    """The numbers of the first line of an input by their names. Empty if their number differs."""
    words = stdin.partition("\n")[0].split()
    if len(words) != len(names) or not all(re.fullmatch(r"[+-]?\d{1,300}", word, re.ASCII) for word in words):
        return {}
    return {name: int(word) for name, word in zip(names, words, strict=True)}
