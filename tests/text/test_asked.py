"""What a problem asks for is read exactly, or not at all; what a program defines is read from its syntax tree."""

import pytest

from codescaler.text.asked import list_asked_names, list_missing_names

MBPP = "Write a function to add.\nYour code should pass this test:\nassert add(1, 2) == 3"
LEETCODE = """Given an array, return indices.

Please complete the following python code precisely:
```python
class Solution:
    def twoSum(self, nums: List[int], target: int) -> List[int]:
```
"""
HUMANEVAL = '''import math

def poly(xs: list, x: float):
    """ Evaluates. """
    return sum([coeff * math.pow(x, i) for i, coeff in enumerate(xs)])


def find_zero(
    xs: list,
) -> float:
    """ Finds x such that poly(x) = 0.
    >>> round(find_zero([1, 2]), 2) # f(x) = 1 + 2x
    -0.5
    """
'''
PROBLEMS = {
    MBPP: ("add",),
    "assert set(similar((3, 4),\n    (5, 4))) == set((4, 5))": ("similar",),
    "assert longest([Pair(5, 24), Pair(1, 2)], 4) == 3": ("longest", "Pair"),
    "import math\nassert math.isclose(area(2), 12.5) and all(g(1) for g in make())": ("area", "make"),
    LEETCODE: ("Solution.twoSum",),
    LEETCODE + "assert Solution().twoSum([1, 2], 3) == [0, 1]": ("Solution.twoSum",),
    HUMANEVAL: ("find_zero",),
    "class Stack:\n    def push(self, x): ...\n    def pop(self):\n        raise NotImplementedError": (
        "Stack.push",
        "Stack.pop",
    ),
    "def f(x): pass\n>>> g(f(1),\n...   2)\n3": ("f", "g"),
    "Write a function `second_largest(numbers)` that returns a number.": ("second_largest",),
    "Complete the class `Tree`.": ("Tree",),
    # What a problem gives is not asked for, and prose is no test.
    "Mend it.\n\ndef f(x):\n    return x\n\nassert f(1) == 2": (),
    "def check(candidate):\n    assert candidate(1) == 2\n\ncheck(f)": (),
    "from lib import f\ng = f\nassert f(1) == g(1)": (),
    "assert len([1]) == 1": (),
    "Define a(n) as the sum. We assert that f(n) grows. Use `solve(x)`; class of problems: import f(x)": (),
    "def of the word. Given n, print n lines.\n>>> not python\nassert (": (),
    "class Node:\n    def __init__(self, value):\n        self.value = value\n": (),
    "": (),
}


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda text: text[:40])
def test_what_is_asked(problem):
    assert set(list_asked_names(problem)) == set(PROBLEMS[problem])


DEFINING = [
    "def f(x):\n    return x",
    "async def f(x): pass",
    "class f: pass",
    "f = lambda x: x",
    "a, (f, *b) = 1, (2, 3)",
    "f: int = 1",
    "from m import g as f",
    "import f.g",
    "if True:\n    def f(): pass",
    "try:\n    import f\nexcept ImportError:\n    pass",
    "for f in g(): pass",
    "[y := 1 for x in (f := [1])]",
    "def make():\n    global f\n    f = 1",
    "from m import *",
    "exec('def f(): pass')",
]
NOT_DEFINING = [
    "def g(x):\n    def f(): pass\n    f = 1",
    "class A:\n    def f(self): pass",
    "[f for f in x]",
    "g = lambda f: f",
    "f(1)\nx.f = 1",
    "import g.f",
    "def f(:",
    "",
]


@pytest.mark.parametrize(("programs", "missing"), [(DEFINING, ()), (NOT_DEFINING, ("f",))])
def test_what_is_defined(programs, missing):
    assert {program: list_missing_names(program, ("f",)) for program in programs} == dict.fromkeys(programs, missing)


def test_methods():
    asked = ("Solution.run",)
    defining = [
        "class Solution:\n    def run(self): pass",
        "class Solution(Base): pass",
        "class Solution:\n    run = print",
        "class Solution: pass\nSolution.run = print",
        "Solution = make()",
    ]
    assert all(not list_missing_names(program, asked) for program in defining)
    for program in ("class Solution:\n    def go(self): pass", "def run(): pass"):
        assert list_missing_names(program, asked) == asked
    assert list_missing_names("def run(): pass", ()) == ()


def test_deep_programs_are_read():
    deep = "x = " + "+".join(["1"] * 900) + "\ndef f(): pass"
    assert list_missing_names(deep, ("f", "g")) == ("g",)
