"""What is put around a program: docstrings, type hints, imports and examples; test_rewriting has the others."""

import ast
import re

import pytest

from codescaler.text.additions import IMPORTS, add_docstring, add_example, add_imports, add_type_hints

PROGRAM = '''\
"""About this file."""
from __future__ import annotations

@print
def find(nums, *rest, word="a:b", key=lambda pair: pair[0]):  # each: one
    # look
    def inner(value):
        return value

    return inner(nums)


class Finder:
    def run(self, text: str, n):
        return {text: n}
'''


def make_all(add, code=PROGRAM, times=60):
    return {made for seed in range(times) if (made := add(code, seed)) is not None}


def test_docstrings_stand_first_in_functions_and_methods():
    made = make_all(add_docstring)
    assert len(made) > 8
    for code in made:
        tree = ast.parse(code)
        find, finder = tree.body[2:]
        assert ast.get_docstring(find) and ast.get_docstring(finder.body[0]) and not ast.get_docstring(find.body[1])
        lines = [line for line in PROGRAM.splitlines() if line]
        assert [line for line in code.splitlines() if line in lines] == lines
        assert 'each: one\n    """' in code and code.index('"""\n    # look') > 0
    assert any(":param text: the text" in code for code in made)
    assert any("Solution for run." in code for code in made)
    assert add_docstring("def f(a): return a") is None
    assert add_docstring('def f(a):\n    "Of it."\n    return a') is None
    shorts = make_all(lambda code, seed: add_docstring(code, seed, ["of {}"]), "def maxSum(a):\n    return a")
    assert 'def maxSum(a):\n    """Of max sum"""\n    return a' in shorts and len(shorts) == 4


def test_type_hints_are_given_to_what_has_none():
    made = make_all(add_type_hints)
    assert len(made) > 8
    for code in made:
        tree = ast.parse(code)
        find, finder = (each for each in tree.body if isinstance(each, (ast.FunctionDef, ast.ClassDef)))
        run = finder.body[0]
        assert ast.unparse(find.args.args[0].annotation).lower() == "list[int]"
        assert find.args.vararg.annotation is find.args.kwonlyargs[0].annotation is None
        hints = [arg.annotation for arg in run.args.args]
        assert [hint and ast.unparse(hint) for hint in hints] == [None, "str", "int"]
        assert find.body[0].returns is None and '*rest, word="a:b", key=lambda pair: pair[0])' in code
        is_old = "List[int]" in code
        assert is_old == ("\nfrom typing import List\n" in code)
    assert {"List[int]" in code for code in made} == {True, False}
    assert {"-> " in code for code in made} == {True, False}


@pytest.mark.parametrize(
    "code",
    [
        "def f(a: int) -> int:\n    return a",
        "def f() -> int:\n    return 1",
        "int = 3\ndef f(a):\n    return a",
        "from typing import List as str\ndef f(a):\n    return a",
        "match [1]:\n    case [list]:\n        pass\ndef f(a):\n    return a",
        "try:\n    1 / 0\nexcept Exception as int:\n    pass\ndef f(a):\n    return a",
        "def f(a):\n    return getattr(f, '__annotations__')",
        "def list():\n    pass\ndef f(a):\n    return a",
        "from functools import singledispatch\n@singledispatch\ndef f(a):\n    return a",
    ],
)
def test_hints_that_would_mean_something_are_not_given(code):
    assert not make_all(add_type_hints, code, 8)


@pytest.mark.parametrize(
    "code",
    [
        '"""Text."""; import math\ndef f(nums):\n    return nums',  # there is no row for an import
        "\fdef f(nums):\n    return nums",
        "from typing import List\ndef f(nums):\n    return nums",  # it has it
        "@property\ndef f(nums):\n    return nums",
        "# Of it.\ndef f(nums):\n    return nums",
        "def f(nums):\n    return nums\nfrom typing import List\ndef g(x: List[int]):\n    return x",  # it comes late
    ],
)
def test_a_hint_never_lacks_its_import(code):
    made = make_all(add_type_hints, code)
    assert made
    for new in made:
        exec(new, {})
        assert new.count("import List") == ("List[" in new or "import List" in code), new
        assert "typing" not in new or "# Of it." not in new or new.index("typing") < new.index("# Of it.")


def test_a_program_that_lacks_an_import_still_lacks_it():
    code = "def f(nums: List[int], k):\n    return k"
    made = make_all(add_type_hints, code)
    assert made and not any("import" in new for new in made)


def test_what_a_maker_or_a_generator_returns_is_not_guessed():
    code = "class C:\n    def __init__(self, x):\n        self.x = x\n    def all(self, y):\n        yield y"
    made = make_all(add_type_hints, code)
    assert all("def all(self, y: int):" in new for new in made)
    assert {re.search(r"__init__\(self, x: int\)(.*):", new)[1] for new in made} == {"", " -> None"}


def test_hinted_programs_run():
    for code in make_all(add_type_hints, PROGRAM.replace("@print\n", "")):
        namespace = {}
        exec(code, namespace)
        assert namespace["find"](3) == 3 and namespace["Finder"]().run("a", 1) == {"a": 1}


def test_imports_are_those_that_the_program_does_not_have():
    code = "import math, re\nfrom collections import Counter as C\n\nprint(C, sys.path, random)"
    made = make_all(add_imports, code)
    for new in made:
        added = [line for line in new.splitlines() if line not in code.splitlines()]
        assert 1 <= len(added) <= 3 and {*added} <= {*IMPORTS}
        assert not re.search(r"math|\bre\b|sys|random|collections", "\n".join(added))
        assert new.endswith(code)
    assert {len(new.splitlines()) for new in made} == {5, 6, 7}
    head = PROGRAM[: PROGRAM.index("@print")]
    assert all(re.match(f"{head}(from|import) ", new) for new in make_all(add_imports))


def test_examples_stand_behind_and_do_not_run_on_import():
    code = "LIMIT = 3\n\ndef helper(x):\n    return x\n\ndef count(words, n=2):\n    raise ValueError"
    made = make_all(add_example, code)
    assert all(new.startswith(f"{code}\n\n") for new in made)
    for new in made:
        exec(new, {"__name__": "count"})  # raises if it calls
        assert re.search(r"count\(\[.*\], -?\d+\)", new) and "helper(" not in new[len(code) :]
    kinds = {re.sub(r"[^a-z_\"=:# ]+", " ", new[len(code) :]).split()[0] for new in made}
    assert {"if", "#"} == kinds
    code = "class C:\n    def __init__(self, n):\n        pass\n    def run(self, text: int):\n        pass"
    code += "\n    @property\n    def p(self):\n        pass\n    def _own(self):\n        pass"
    made = make_all(add_example, code)
    assert made and all(re.search(r"C\(-?\d+\)\.run\(-?\d+\)", new) for new in made)


@pytest.mark.parametrize(
    "code",
    [
        "def f(a):\n    return a\n\nprint(f(1))",  # runs: a block would run too
        "def f(a):\n    print(a)\n\ng = f(1)",
        "class C:\n    print(1)\n\ndef f(a):\n    return a",
        "def f(a):\n    return a\n\nif 1:\n    pass",
        "def f(a):\n    return __name__",
        "import sys\ndef run(f):\n    print(f())\n@run\ndef main():\n    return 3",
        "class A(print('hi') or object):\n    pass\ndef f(a):\n    return a",
        "def f(a, b=print(3)):\n    return a",
        "async def f(a):\n    return a",  # a call would not run it
        "def f(*, k):\n    return k",
        "x = 1",
    ],
)
def test_a_program_that_runs_gets_no_example(code):
    assert not make_all(add_example, code, 8)


def test_what_stands_behind_a_program_stays_there():
    assert add_example("def f(a):\n    return a\n\n").endswith("\n\n")
