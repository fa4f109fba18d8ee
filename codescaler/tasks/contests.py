"""Problems of CodeContests, which ask for a program from standard input, or a file, to output.

The rules are those of the set's own grader. Source: github.com/google-deepmind/code_contests, execution/.
"""

import re
from string import ascii_uppercase

from codescaler.tasks.own import parse_stdio_case
from codescaler.tasks.row import Row, parse_rows
from codescaler.text.extract import is_compilable
from codescaler.types import StdioTests, Task

# CodeContests' names of difficulties by number; the letters are Codeforces' places in a contest.
_DIFFICULTIES = ("UNKNOWN_DIFFICULTY", "EASY", "MEDIUM", "HARD", "HARDER", "HARDEST", "EXTERNAL", *ascii_uppercase[:22])
# The place in names of Codeforces' problems, as in "1575_A. Sorting".
_PLACE = re.compile(r"\d+_([a-v])\d?(?:[._]|$)", re.IGNORECASE)
_PYTHON3 = (3, "PYTHON3")  # in CodeContests' list of languages
_MAX_SECONDS = 600
_CASE = ("input", "output")


def parse_codecontests_task(row: Row) -> Task:
    """A row of CodeContests as published, or {name, statement, solution, tests: [[stdin, stdout], ...]}.

    Tests are public, private and generated ones, in this order; the reference is the first solution in Python 3 that
    compiles.
    """
    if "statement" in row.values:
        pairs = row.values.get("tests")
        if not isinstance(pairs, list):
            raise row.make_error("tests", "give a list of [stdin, stdout]")
        cases = [parse_stdio_case(case, f"{row.name}: tests[{i}]") for i, case in enumerate(pairs)]
        prompt, reference = row.read_text("statement"), row.read_text_or_none("solution")
    else:
        kinds = ("public_tests", "private_tests", "generated_tests")
        tests = [test for key in kinds for test in parse_rows(row, key, ("input", "output"))]
        cases = [(test.read_text("input"), test.read_text("output")) for test in tests]
        prompt, solutions = row.read_text("description"), parse_rows(row, "solutions", ("language", "solution"))
        programs = (s.read_text("solution") for s in solutions if s.values.get("language") in _PYTHON3)
        reference = next(filter(is_compilable, programs), None)
    return Task(
        f"codecontests/{row.read_text('name')}",
        prompt,
        _make_tests(row, tuple(cases)) if cases else None,
        reference=reference,
        difficulty=_parse_difficulty(row),
        split=row.read_text_or_none("split"),
        name=row.name,
        tags=row.read_tags("cf_tags", "tags"),
        rating=row.read_rating("cf_rating"),
    )


def parse_codecontests_plus_task(row: Row) -> Task:
    """A row of CodeContests+. Its checkers are programs in C++, which are not run: outputs are compared as usual."""
    cases = tuple((test.read_text("input"), test.read_text("output")) for test in parse_rows(row, "test_cases", _CASE))
    submissions = parse_rows(row, "correct_submissions", ("language", "code"))
    programs = (s.read_text("code") for s in submissions if s.values.get("language") == "py3")
    limit = row.values.get("time_limit")  # in milliseconds
    if limit is not None and (type(limit) is not int or not 0 <= limit <= 1000 * _MAX_SECONDS):
        raise row.make_error("time_limit", "give a whole number of milliseconds")
    return Task(
        f"codecontests+/{row.read_text('id')}",
        row.read_text("description"),
        StdioTests(cases, comparison="codecontests", cpu_seconds=-(-(limit or 0) // 1000) or None) if cases else None,
        reference=next(filter(is_compilable, programs), None),
        split=row.read_text_or_none("split"),
        name=row.name,
    )


def _make_tests(row: Row, cases: tuple[tuple[str, str], ...]) -> StdioTests:
    input_file, output_file = (_read_file_name(row, key) for key in ("input_file", "output_file"))
    return StdioTests(
        cases,
        comparison="codecontests",
        cpu_seconds=_read_seconds(row),
        input_file=input_file,
        output_file=output_file,
    )


def _read_file_name(row: Row, key: str) -> str:
    name = row.read_text_or_none(key) or ""
    if "/" in name or name in (".", "..") or len(name) > 255:
        raise row.make_error(key, "give the name of a file, without a folder")
    return name


def _read_seconds(row: Row) -> int | None:
    """The limit on time, in whole seconds; None where there is none."""
    limit = row.read_object("time_limit").values
    seconds, nanos = (0 if limit.get(key) is None else limit[key] for key in ("seconds", "nanos"))
    if type(seconds) is not int or type(nanos) is not int or not 0 <= seconds <= _MAX_SECONDS or nanos < 0:
        raise row.make_error("time_limit", "give {seconds, nanos}")
    return seconds + (nanos > 0) or None


def _parse_difficulty(row: Row) -> str | None:
    value = row.values.get("difficulty")
    if value is None:
        place = _PLACE.match(row.read_text("name"))
        return None if place is None else place[1].upper()
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(_DIFFICULTIES):
            raise row.make_error("difficulty", f"give a number from 0 to {len(_DIFFICULTIES) - 1}, or a name")
        value = _DIFFICULTIES[value]
    if not isinstance(value, str):
        raise row.make_error("difficulty", "give a number or a name")
    return None if value in ("", _DIFFICULTIES[0]) else value
