"""Idioms that plain Python passes with a correct program: each passes, or is unjudged and passes in one process."""

import pytest

from codescaler.sandbox import Limits, Sandbox
from codescaler.sandbox.shapes import find_shared_state
from codescaler.types import CallTests

PROGRAM = """
import asyncio, collections, dataclasses, functools, random
async def later(x):
    await asyncio.sleep(0)
    return x + 1
async def count(n):
    for i in range(n):
        yield i
class C:
    "A class."
    __match_args__ = ("a",)
    def __init__(self, a=1): self.a = a
    async def wait(self): return self.a
    def __enter__(self): return self
    def __exit__(self, *error): return True
    async def __aenter__(self): return self
    async def __aexit__(self, *error): return None
@dataclasses.dataclass
class Q:
    a: int
def show(a: int, b: str = "x", *, c=3) -> list: return [a, b, c]
@functools.lru_cache
def cached(x): return x
def generate(n):
    total = 0
    for i in range(n): total += (yield i) or 0
    return total
def draw(): return random.random()
def trace(f):
    @functools.wraps(f)
    def inner(*args): return f(*args) + 1
    return inner
def chain():
    try: raise KeyError("a")
    except KeyError as error: raise ValueError("b") from error
def group(): raise ExceptionGroup("g", [ValueError(1), TypeError(2)])
def add(k): return lambda x: x + k
def defaults(): return collections.defaultdict(int, {"a": 1})
def keys(): return {"a": 1}.keys()
def items(): return {"a": [1]}.items()
def dots(): return ...
total = 0
def bump():
    global total
    total += 1
    return total
"""

PASSING = {
    "default": "assert defaults()['b'] == 0",
    "keys": "assert keys() == {'a'} and list(keys()) == ['a']",
    "items": "assert ('a', [1]) in items() and dict(items()) == {'a': [1]}",
    "ellipsis": "assert dots() is ...",
    "cache": "assert cached(1) == cached(1) and cached.cache_info().hits == 1",
    "name of a module": "assert trace(lambda x: x)(1) == 2 and math.isclose(1, 1)",
    "decorator": "@trace\ndef h(x): return x\nassert h(1) == 2 and h.__name__ == 'h'",
    "next": "it = generate(3)\nassert next(it) == 0 and list(it) == [1, 2]",
    "pool": "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool:\n"
    "    assert list(pool.map(add(1), range(50))) == list(range(1, 51))",
}
SHARED = {
    "run": "import asyncio\nassert asyncio.run(later(1)) == 2",
    "gather": "import asyncio\nasync def main():\n    return await asyncio.gather(later(1), later(2))\n"
    "assert asyncio.run(main()) == [2, 3]",
    "async for": "import asyncio\nasync def main():\n    return [i async for i in count(3)]\n"
    "assert asyncio.run(main()) == [0, 1, 2]",
    "async with": "import asyncio\nasync def main():\n    async with C(4) as c:\n        return await c.wait()\n"
    "assert asyncio.run(main()) == 4",
    "signature": "import inspect\nassert list(inspect.signature(show).parameters) == ['a', 'b', 'c']",
    "annotations": "assert show.__annotations__['a'] is int",
    "hints": "import typing\nassert typing.get_type_hints(show)['return'] is list",
    "defaults": "assert show.__defaults__ == ('x',)",
    "docstring": "assert C.__doc__ == 'A class.'",
    "wrapped": "assert cached.__wrapped__(3) == 3",
    "send": "it = generate(2)\nnext(it)\nit.send(5)\ntry:\n    it.send(6)\nexcept StopIteration as error:\n"
    "    assert error.value == 11",
    "seed": "import random\nrandom.seed(1)\nassert draw() == 0.13436424411240122",
    "cause": "try:\n    chain()\nexcept ValueError as error:\n    assert isinstance(error.__cause__, KeyError)",
    "group": "try:\n    group()\nexcept* ValueError:\n    pass\nexcept* TypeError:\n    pass",
    "pattern": "match C(5):\n    case C(a):\n        assert a == 5",
    "dataclass": "import dataclasses\nassert dataclasses.asdict(Q(1)) == {'a': 1}",
    "weak": "import weakref\nc = C()\nassert weakref.ref(c)() is c",
}


@pytest.fixture(scope="module")
def apart():
    with Sandbox(Limits(), num_workers=1) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def together():
    with Sandbox(Limits(), num_workers=1, allow_one_process=True) as sandbox:
        yield sandbox


def ask(*statements):
    return CallTests(statements, classes=("C", "Q"))


@pytest.mark.parametrize("name", PASSING)
def test_a_correct_program_passes(apart, name):
    verdict = apart.run(PROGRAM, ask(PASSING[name]))
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", SHARED)
def test_a_correct_program_is_never_called_wrong(apart, together, name):
    verdict = apart.run(PROGRAM, ask(SHARED[name]))
    assert verdict.passed is None and "allow_one_process" in verdict.message, verdict
    assert together.run(PROGRAM, ask(SHARED[name])).passed


@pytest.mark.parametrize("name", ["run", "gather", "signature", "seed", "send", "pattern"])
def test_a_wrong_program_is_wrong(apart, name):
    wrong = PROGRAM.replace("x + 1\n", "x\n").replace("a: int, b", "b").replace("random.random()", "0.1")
    wrong = wrong.replace("return total\ndef draw", "return 0\ndef draw").replace("self.a = a", "self.a = 0")
    assert apart.run(wrong, ask(SHARED[name])).passed is False


def test_a_global_that_a_call_sets_is_read_anew(apart):
    verdict = apart.run(
        PROGRAM, ask("assert bump() == 1", "assert total == 1", "assert bump() == 2", "assert total == 2")
    )
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("statement", "shared"),
    [("assert trace(1) == 2", None), ("assert sorted([1], key=select) == [1]", None),
     ("assert asyncio.run(later(1)) == 2", "what asyncio does"),
     ("from dataclasses import asdict\nassert asdict(Q(1)) == {'a': 1}", "what dataclasses does")],
)  # fmt: skip
def test_a_function_named_like_a_module_is_the_programs(statement, shared):
    """Or else a wrong program could choose to be run together with its tests."""
    assert find_shared_state(CallTests((statement,))) == (shared,)
