"""Whether what a program printed is what a test expects, by the rules of benchmarks' own graders.

Numbers that are written in other words are equal where the grader of the benchmark takes them for equal. An expected
whole number with a leading zero is a text: the program that prints 101 for 000101 is wrong.
"""

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation

from codescaler.sandbox.checker import is_expected as is_expected_by_lines
from codescaler.types import Comparison

_LEADING_ZERO = re.compile(r"[+-]?0\d+", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|infinity|nan)", re.ASCII | re.IGNORECASE)
_MAX_CHARS = 10_000  # of a number: the largest that problems ask for has some thousands of digits
_RELATIVE, _ABSOLUTE = 1e-5, 1e-8  # numpy.allclose
_CODECONTESTS_TOLERANCE = 1e-5


def is_expected(output: str, expected: str, rule: Comparison) -> bool:
    """Whether an output is the expected one by a benchmark's rule."""
    return _RULES[rule](output, expected)


def _is_expected_by_livecodebench(output: str, expected: str) -> bool:
    """As many lines. Each line is the same without blanks around it, or holds the same numbers, exactly."""
    seen, wanted = ([line.strip() for line in text.strip().split("\n")] for text in (output, expected))
    return len(seen) == len(wanted) and all(map(_is_same_decimal_line, seen, wanted))


def _is_same_decimal_line(seen: str, wanted: str) -> bool:
    if seen == wanted:
        return True
    words, wanted_words = seen.split(), wanted.split()
    return len(words) == len(wanted_words) and all(map(_is_same_decimal, words, wanted_words))


def _is_same_decimal(seen: str, wanted: str) -> bool:
    if _LEADING_ZERO.fullmatch(wanted):
        return seen == wanted
    if len(seen) > _MAX_CHARS or len(wanted) > _MAX_CHARS:
        return False
    try:
        return Decimal(seen) == Decimal(wanted)
    except InvalidOperation:
        return False


def _is_expected_by_apps(output: str, expected: str) -> bool:
    """The same text or lines, or a number a line within 1e-5 of it, or the same sets of words, to three decimals."""
    seen = output.splitlines()
    if expected.strip() in ("\n".join(seen).strip(), "\n".join(map(str.strip, seen)).strip()):
        return True
    wanted = [line.strip() for line in expected.split("\n") if line]
    filled = [line for line in seen if line]
    if wanted in (seen, filled):
        return True
    if _has_close_numbers(filled, wanted):
        return True
    words = {frozenset(split) for line in filled if (split := line.split())}
    wanted_words = {frozenset(line.split()) for line in wanted}
    if words == wanted_words:
        return True
    if any(_LEADING_ZERO.fullmatch(word) for line in wanted_words for word in line):
        return False
    rounded = _round_words(words)
    return rounded is not None and rounded == _round_words(wanted_words)


def _has_close_numbers(seen: Sequence[str], wanted: Sequence[str]) -> bool:
    if len(seen) != len(wanted):
        return False
    if any(_LEADING_ZERO.fullmatch(word) and line.strip() != word for line, word in zip(seen, wanted, strict=True)):
        return False
    try:
        pairs = [(float(word), float(goal)) for word, goal in zip(seen, wanted, strict=True)]
    except ValueError:
        return False
    return all(
        number == goal or (math.isfinite(goal) and abs(number - goal) <= _ABSOLUTE + _RELATIVE * abs(goal))
        for number, goal in pairs
    )


def _round_words(lines: set[frozenset[str]]) -> set[frozenset[float]] | None:
    try:
        return {frozenset(round(float(word), 3) for word in line) for line in lines}
    except (ValueError, OverflowError):
        return None


def _is_expected_by_codecontests(output: str, expected: str) -> bool:
    """The same words in any case, wherever lines end. Whole numbers are equal, other numbers within 1e-5."""
    words, wanted = output.lower().split(), expected.lower().split()
    return len(words) == len(wanted) and all(map(_is_same_contest_word, words, wanted))


def _is_same_contest_word(seen: str, wanted: str) -> bool:
    if seen == wanted:
        return True
    if _LEADING_ZERO.fullmatch(wanted) or not (_REAL.fullmatch(seen) and _REAL.fullmatch(wanted)):
        return False
    if _WHOLE.fullmatch(seen) and _WHOLE.fullmatch(wanted):
        return len(seen) <= _MAX_CHARS and Decimal(seen) == Decimal(wanted)
    return abs(float(seen) - float(wanted)) < _CODECONTESTS_TOLERANCE


_RULES: dict[Comparison, Callable[[str, str], bool]] = {
    "lines": is_expected_by_lines,
    "livecodebench": _is_expected_by_livecodebench,
    "apps": _is_expected_by_apps,
    "codecontests": _is_expected_by_codecontests,
}
