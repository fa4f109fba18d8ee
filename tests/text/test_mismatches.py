"""Rules that make a program wrong for its problem: by hand, and checked by running what they return."""

import pytest

from codescaler.text.extract import is_valid_code
from codescaler.text.mismatches import (
    add_parameters,
    answer_with,
    count_parameters,
    drop_last_return,
    find_function,
    misspell_name,
    rename_function,
)

FACTORIAL = "def fact(n):  # fact\n    if n < 2:\n        return 1\n    return n * fact(n - 1)"
METHOD = "class Solution:\n    def run(self, é=1) -> int:\n        s = 'é'; return self.run(0) if é else len(s)"


def run(code, call):
    names = {}
    exec(code, names)  # our own text
    return eval(call, names)


def test_a_renamed_function_does_the_same():
    renamed = rename_function(FACTORIAL, "fact", "gamma")
    assert renamed == "def gamma(n):  # fact\n    if n < 2:\n        return 1\n    return n * gamma(n - 1)"
    assert run(renamed, "gamma(5)") == 120
    renamed = rename_function(METHOD, "Solution.run", "go")
    assert renamed == METHOD.replace("run", "go")
    assert run(renamed, "Solution().go()") == 1
    assert rename_function("async  def  f(): pass", "f", "g") == "async  def  g(): pass"


@pytest.mark.parametrize(
    ("code", "name", "new"),
    [
        ("def f(:", "f", "g"),
        ("def f(): pass", "h", "g"),
        ("f = lambda: 1", "f", "g"),
        ("def f(g): pass", "f", "g"),
        ("def f(): pass", "f", "len"),
        ("def f(x):\n    f = 1\n    return f", "f", "g"),
        ("def f(x): pass\ndef h(f): pass", "f", "g"),
        ("class A:\n    def f(self): pass", "B.f", "g"),
    ],
)
def test_a_name_that_would_mean_two_things_stays(code, name, new):
    assert rename_function(code, name, new) is None


def test_the_last_return_is_dropped():
    assert drop_last_return(FACTORIAL, "fact") == "def fact(n):  # fact\n    if n < 2:\n        return 1"
    assert drop_last_return(METHOD, "Solution.run").endswith("s = 'é'; pass")
    assert drop_last_return("def f(x):\n    if x: return 1", "f") == "def f(x):\n    if x: pass"
    assert drop_last_return("def f(x):\n    return (\n        1\n    )", "f") == "def f(x):\n    pass"
    inner = "def f(x):\n    return g(x)\n    def g(y):\n        return y"
    assert drop_last_return(inner, "f") == "def f(x):\n    def g(y):\n        return y"
    for code in ("def f(): pass", "def f(): return", "def f():\n    return None", "x = 1", "def f(:"):
        assert drop_last_return(code, "f") is None


def test_answers_have_the_parameters():
    assert answer_with("def f(x: int, *y, z=2) -> str: pass", "f", "[1]") == "def f(x, *y, z=2):\n    return [1]"
    assert run(answer_with(METHOD, "Solution.run", "7"), "Solution().run(3)") == 7
    assert answer_with("x = 1", "f", "None") is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(): pass", "def f(arg0, arg1, arg2): pass"),
        ("def f(x, y): pass", "def f(arg0, x, y): pass"),
        ("def f(arg0: int = (1)): pass", "def f(arg1, arg2, arg0: int = (1)): pass"),
        ("def f(x, y, z): pass", "def f(x, y, z): pass"),
        ("def f(a, b, c, d): pass", None),
        ("def f(*a): pass", None),
    ],
)
def test_parameters_are_added_in_front(code, expected):
    assert add_parameters(code, "f", 3) == expected
    if expected is not None:
        assert is_valid_code(expected)
        assert count_parameters(find_function(expected, "f")) == 3


def test_parameters_of_a_method_follow_self():
    assert add_parameters("class A:\n    def f(self): pass", "A.f", 2) == "class A:\n    def f(self, arg0): pass"
    assert add_parameters(METHOD, "Solution.run", 3) == METHOD.replace("(self, ", "(self, arg0, ")


def test_a_misspelled_name_is_another_name():
    assert [misspell_name(name) for name in ("f", "s", "cost", "costs")] == ["fs", "ss", "costs", "cost"]
