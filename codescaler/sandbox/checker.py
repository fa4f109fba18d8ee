"""Whether what a program printed is what a test expects."""

import re
from decimal import Decimal

TOLERANCE = Decimal("1e-6")  # relative and absolute, for numbers with a fraction; what most such problems state

_WORD = re.compile(r"\s+|\S+")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,9})?", re.ASCII | re.IGNORECASE)


def is_expected(output: str, expected: str) -> bool:
    """Compares line by line, without the blanks at line ends and the blank lines at the end.

    A line may differ in numbers that are expected with a fraction: they have to be equal within `TOLERANCE`. A line of
    numbers may also differ in the blanks between them. All else is text: whole numbers and indentation too.
    """
    seen, wanted = _split_lines(output), _split_lines(expected)
    return len(seen) == len(wanted) and all(map(_is_same_line, seen, wanted))


def _split_lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _is_same_line(seen: str, wanted: str) -> bool:
    if seen == wanted:
        return True
    words, wanted_words = _WORD.findall(seen), _WORD.findall(wanted)
    if all(map(_NUMBER.fullmatch, wanted.split())) and _count_indentation(seen) == _count_indentation(wanted):
        words, wanted_words = seen.split(), wanted.split()
    return len(words) == len(wanted_words) and all(map(_is_same_word, words, wanted_words))


def _count_indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_same_word(seen: str, wanted: str) -> bool:
    if seen == wanted:
        return True
    if "." not in wanted and "e" not in wanted.lower():
        return False
    number, goal = _parse_number(seen), _parse_number(wanted)
    return number is not None and goal is not None and abs(number - goal) <= TOLERANCE * max(Decimal(1), abs(goal))


def _parse_number(word: str) -> Decimal | None:
    # The longest number that problems ask for has some thousands of digits; an untrusted number may have any exponent.
    if len(word) > 10_000 or not _NUMBER.fullmatch(word):
        return None
    number = Decimal(word)
    return number if abs(number.adjusted()) < 10_000 else None
