import sys
import threading
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codescaler.extract import MAX_CODE_CHARS, extract_evaluation_code, extract_training_code, is_valid_code

ONE = "Here it is:\n```python\nx = 1\n```\nDone."
TWO = "```python\nx = 1\n```\nor\n```python\nx = 2\n```"


@pytest.mark.parametrize(
    "completion, training, evaluation",
    [
        (ONE, "x = 1", "x = 1"),
        (TWO, None, "x = 2"),
        ("no block at all", None, None),
        ("x = 1", None, None),
        ("```\n  x = 1  \n\n```", "x = 1", "x = 1"),
        ("```py\nx =\n```", None, "x ="),
        ("```python\n```", "", ""),
        ("```python\nx = 1", None, None),
        ("```python x = 1```", None, None),
        ("``` \nx = 1\n```", None, None),
        ("```python\r\nx = 1\r\n```", None, None),
        ("````python\nx = 1\n````", "x = 1", "x = 1"),
        ("```python\nx = '```'\n```", None, "x = '"),
        ("", None, None),
    ],
)
def test_examples(completion, training, evaluation):
    assert extract_training_code(completion) == training
    assert extract_evaluation_code(completion) == evaluation


@pytest.mark.parametrize(
    "code, is_valid",
    [
        ("", True),
        ("# only a comment", True),
        ("def f(:", False),
        ("return 1", True),  # ast.parse does not look further than syntax
        ("x = '\\d'", True),
        ("x = 1\0", False),
        ("x = '\ud800'", False),
        ("1" * 60_000, True),
        ("x = 1\n" * 5000, True),
        ("#" * MAX_CODE_CHARS, True),
        ("#" * (MAX_CODE_CHARS + 1), False),
    ],
)
def test_python_verdicts(code, is_valid):
    if code.startswith("111") and sys.version_info >= (3, 11):
        is_valid = False  # integers above 4,300 digits are refused from 3.11 on
    assert is_valid_code(code) == is_valid


def test_warnings_do_not_leak():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert is_valid_code("x = '\\d' is 1")
    assert not caught


DEEP = {
    "brackets": "(" * 30_000 + ")" * 30_000,
    "lists": "[" * 60_000,
    "attributes": "x" + ".a" * 32_000,
    "unary": "-" * 65_000 + "1",
    "not": "not " * 16_000 + "x",
    "sum": "1" + "+1" * 32_000,
    "calls": "f" + "()" * 32_000,
    "lambdas": "lambda:" * 9_000 + "0",
    "indents": "".join(" " * i + "if x:\n" for i in range(300)),
    "f-strings": 'f"{' * 9_000,
    "backslashes": "\\\n" * 30_000,
    "megabytes": "x = 1\n" * 1_000_000,
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_and_long_programs_get_a_verdict(name):
    """On a thread of the default stack size, where a recursion in C would end the process."""
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(is_valid_code(DEEP[name])))
    start = time.perf_counter()
    thread.start()
    thread.join()
    assert len(verdicts) == 1
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("unit", ["`", "```", "```\n", "```a\n", "```a\n`", "``\n", "a```", "\n```x"])
def test_extraction_takes_linear_time(unit):
    text = unit * (2_000_000 // len(unit))
    start = time.perf_counter()
    extract_training_code(text)
    extract_evaluation_code(text)
    assert time.perf_counter() - start < 10  # a tenth of a second where this was written


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet=st.sampled_from("`\n\r a1=(:\"'\\\0\ud800é"), max_size=60))
def test_any_text_gets_a_verdict(text):
    training, evaluation = extract_training_code(text), extract_evaluation_code(text)
    assert training is None or training == evaluation
    assert training is None or is_valid_code(training)
    assert isinstance(is_valid_code(text), bool)
