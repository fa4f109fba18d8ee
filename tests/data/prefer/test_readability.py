"""Readability: measures counted by hand, pairs that people would agree on, and pairs that no measure should decide."""

import builtins
import dataclasses

import pytest

from codescaler.data.prefer.readability import Measures, Readability, is_clearly_more_readable
from codescaler.data.programs import LabelledProblem, Program
from codescaler.errors import InvalidInput

LOOP = """def count(text, letter):
    count = 0
    for char in text:
        if char == letter:
            count += 1
    return count"""
BUILTIN = "def count(text, letter):\n    return text.count(letter)"
COMPREHENSION = "def evens(numbers):\n    return [number for number in numbers if number % 2 == 0]"
FILTER = "def evens(numbers):\n    # keep those that are even\n    return list(filter(lambda n: n % 2 == 0, numbers))"


@pytest.fixture(scope="module")
def readability():
    return Readability()


def found(readability, *codes, passed=True):
    programs = tuple(Program(code, passed, code) for code in codes)
    return [
        (item.chosen.code, item.rejected.code)
        for item in readability.list_preferences(LabelledProblem("t", "p", None, programs))
    ]


def test_measures_counted_by_hand(readability):
    loop, builtin, comprehension = map(readability.measure, (LOOP, BUILTIN, COMPREHENSION))
    assert (loop.complexity, loop.plain_complexity, loop.nesting, loop.findings) == (3, 3, 3, ())
    assert (builtin.complexity, builtin.nesting, builtin.findings) == (1, 1, ())
    assert (comprehension.complexity, comprehension.plain_complexity, comprehension.nesting) == (3, 1, 2)
    assert readability.measure("import os\nif x == None: y = 1").findings == ("E701", "E711", "F401", "F821")
    commented = LOOP.replace("    count = 0", '    """Counts.\n\n    Letters."""\n    count = 0  # so far')
    assert readability.measure(commented) == loop, "comments are free to write, and say nothing of the code"


def test_ruffs_findings_are_not_silenced_by_the_program(readability):
    assert readability.measure("import os  # noqa").findings == ("F401",)
    assert readability.measure("# ruff: noqa\nimport os").findings == ("F401",)


def test_a_builtin_is_preferred_to_the_loop_that_does_the_same(readability):
    assert found(readability, LOOP, BUILTIN) == [(BUILTIN, LOOP)]


def test_what_is_a_matter_of_taste_is_not_decided(readability):
    assert found(readability, COMPREHENSION, FILTER) == []
    assert found(readability, LOOP, LOOP.replace("char", "c")) == []


def test_wrong_programs_are_not_compared(readability):
    assert found(readability, LOOP, BUILTIN, passed=False) == []


GOOD = Measures(complexity=2, plain_complexity=2, nesting=2, maintainability=90.0, findings=("F841",))
BAD = Measures(complexity=4, plain_complexity=4, nesting=2, maintainability=80.0, findings=("F841",))


@pytest.mark.parametrize(
    "change",
    [
        {"complexity": 3},
        {"plain_complexity": 3},
        {"nesting": 3},
        {"maintainability": 89.9},
        {"findings": ("E701", "F841")},
    ],
    ids=str,
)
def test_every_measure_has_to_agree(change):
    assert is_clearly_more_readable(GOOD, BAD)
    assert not is_clearly_more_readable(dataclasses.replace(GOOD, **change), BAD)


def test_what_cannot_be_read_is_counted():
    readability = Readability()
    assert found(readability, "int main() {}", "print('x'", "x = 1\x00", LOOP, BUILTIN) == [(BUILTIN, LOOP)]
    assert readability.num_unmeasured == 3
    assert readability.measure("x = '\\d'") is not None  # a warning, which is an error here


def test_evidence_names_measures_and_versions(readability):
    programs = tuple(Program(code, True, code) for code in (LOOP, BUILTIN))
    (item,) = readability.list_preferences(LabelledProblem("t", "p", None, programs))
    assert item.evidence["chosen"]["complexity"] == 1
    assert item.evidence["rejected"]["findings"] == ()
    assert set(item.evidence["versions"]) == {"radon", "ruff", "python"}


def test_without_radon_the_message_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without_radon(name, *rest):
        if name == "radon":
            raise ImportError("No module named 'radon'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_radon)
    with pytest.raises(InvalidInput, match=r"pip install 'codescaler\[data\]'"):
        Readability()
