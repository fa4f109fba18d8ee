"""Tests of classes, errors and containers run as if the program were here, and its objects have no say over data."""

# ruff: noqa: E501  a program and its test in a line or two each

import pytest

from codescaler.sandbox import Limits, Sandbox
from codescaler.sandbox.shapes import find_shared_state
from codescaler.types import CallTests

MONEY = """
class Money:
    def __init__(self, x): self.x = x
    def __add__(self, other): return Money(self.x + (other.x if isinstance(other, Money) else other))
    __radd__ = __add__
    def __eq__(self, other): return self.x == (other.x if isinstance(other, Money) else other)
    def __hash__(self): return hash(self.x)
    def __lt__(self, other): return self.x < other.x
    def __bool__(self): return self.x > 0
    def __len__(self): return self.x
    def __repr__(self): return f"Money({self.x})"
    def __iter__(self): return iter(range(self.x))
    def __contains__(self, item): return item == self.x
    def __enter__(self): return self
    def __exit__(self, kind, error, trace): return kind is ValueError
    def __delitem__(self, key): self.x -= key
"""
ERRORS = """
class Refused(KeyError):
    def __init__(self, code):
        super().__init__(code)
        self.code, self.seen = code, [code]
    def describe(self): return f"code {self.code}"
class RefusedTwice(Refused): pass
def f(x): raise RefusedTwice(x)
def g(x): raise ValueError("no", x)
def h(): open("nothing.txt")
"""
HELD = """
class Shop:
    def __init__(self): self.stock = {"a": [1]}
    def add(self, name): self.stock[name] = []
    def get(self): return self.stock
kept = []
def keep(a): kept.append(a); return kept[0]
def grow(a): a.append(1); return a
"""
COLORS = "from enum import Enum\nclass Color(Enum):\n    RED = 1\n    BLUE = 2\ndef f(): return Color.BLUE"

HONEST = {
    "operators": (MONEY, "assert Money(1) + Money(2) == Money(3) and 1 + Money(1) == Money(2) and Money(3) == 3"),
    "in place": (MONEY, "a = Money(1)\na += 1\na += Money(2)\nassert a == Money(4) and a != Money(5)"),
    "truth, length, order": (MONEY, "assert Money(1) and not Money(0) and len(Money(3)) == 3\n"
                             "assert sorted([Money(2), Money(1)]) == [Money(1), Money(2)]"),
    "text": (MONEY, "assert repr(Money(1)) == 'Money(1)' and f'{Money(2)}' == 'Money(2)' and str([Money(3)]) == '[Money(3)]'"),
    "items": (MONEY, "a = Money(3)\nassert list(a) == [0, 1, 2] and 3 in a and 4 not in a\ndel a[1]\nassert a.x == 2"),
    "hashes": (MONEY, "assert len({Money(1), Money(1), Money(2)}) == 2 and {Money(1): 5}[Money(1)] == 5"),
    "classes": (MONEY, "assert isinstance(Money(1), Money) and type(Money(1)) is Money and Money.__name__ == 'Money'\n"
                "assert Money(1).__class__ is Money and not isinstance(3, Money)"),
    "with": (MONEY, "with Money(1) as a: raise ValueError\nassert a.x == 1"),
    "a builtin error": (ERRORS, "try: g(1)\nexcept Exception as e: assert type(e) is ValueError and e.args == ('no', 1)\n"
                        "else: assert False"),
    "assertRaises": (ERRORS, "import unittest\nwith unittest.TestCase().assertRaises(ValueError) as c: g(1)\n"
                     "assert c.exception.args[0] == 'no' and type(c.exception) == ValueError"),
    "an error of the program": (ERRORS, "try: f(4)\nexcept Refused as e:\n"
                                "    assert (e.code, e.seen, e.describe()) == (4, [4], 'code 4') and type(e) is RefusedTwice\n"
                                "    assert isinstance(e, KeyError) and str(e) == '4'\nelse: assert False"),
    "an error of a file": (ERRORS, "try: h()\nexcept FileNotFoundError as e: assert (e.errno, e.filename) == (2, 'nothing.txt')"),
    "an error made by a test": (ERRORS, "assert Refused(3).code == 3 and issubclass(RefusedTwice, Refused)"),
    "attributes are views": (HELD, "s = Shop()\ns.stock['a'].append(2)\nt = s.stock\ns.add('b')\ndel s.get()['a'][0]\n"
                             "assert s.get() == {'a': [2], 'b': []} and 'b' in t and type(t) is dict and t is s.stock"),
    "an argument comes back": (HELD, "a = []\nassert grow(a) is a and keep(a) is a and a == [1]\na.append(2)\n"
                               "assert keep([]) == [1, 2] and keep([]) is a"),
    "enumerations": (COLORS, "assert f() is Color.BLUE and Color(2) is f() and Color['RED'] != f() and len(Color) == 2\n"
                     "assert [c.name for c in Color] == ['RED', 'BLUE'] and f().value == 2 and f() in Color"),
    "functions handed in": ("def f(g, xs): return [g(x) for x in xs]",
                            "assert f(lambda x: x + 1, [1]) == [2] and f(str, [1]) == ['1'] and f([].append, [1]) == [None]"),
    "a mock": ("def f(m): m.send(3, to=[1]); return m.recv()", "from unittest.mock import Mock\nm = Mock()\n"
               "m.recv.return_value = 7\nassert f(m) == 7\nm.send.assert_called_once_with(3, to=[1])"),
    "an object of the tests": ("def f(o): o.x += 1; return o.get()", "class O:\n    x = 1\n    def get(self): return self.x\n"
                               "o = O()\nassert f(o) == 2 and o.x == 2"),
    "an error of a function handed in": ("def f(g):\n    try: g(0)\n    except KeyError: return 'caught'",
                                         "def g(x): raise KeyError(x)\nassert f(g) == 'caught'\n"
                                         "try: f(lambda x: 1 / x)\nexcept ZeroDivisionError: pass\nelse: assert False"),
    "matches, paths, slices": ("import re, pathlib\ndef f(): return re.search(r'(\\d)b', 'a1b'), pathlib.Path('/a/b')\n"
                               "def g(xs, s): return xs[s]", "m, p = f()\nassert m.group(1) == '1' and m.span() == (1, 3)\n"
                               "import pathlib\nassert p == pathlib.Path('/a/b') and g([1, 2, 3], slice(0, 2)) == [1, 2]"),
    "named tuples": ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
                     "assert f().x == 1 and f() == (1, 2) and f() == P(1, 2) and P(1, 2).y == 2"),
    "dataclasses": ("from dataclasses import dataclass\n@dataclass(order=True)\nclass D:\n    x: int\ndef f(): return D(2)",
                    "assert f() == D(2) and f() != D(3) and D(1) < f() and repr(f()) == 'D(x=2)'"),
    "generators": ("def f(n):\n    'text'\n    yield from range(n)", "import types\n"
                   "assert isinstance(f(2), types.GeneratorType) and f.__doc__ == 'text' and f.__name__ == 'f' and list(f(2)) == [0, 1]"),
}  # fmt: skip
CLASSES = ("Money", "Refused", "RefusedTwice", "Shop", "Color", "P", "D")


@pytest.mark.parametrize("name", HONEST)
def test_a_test_runs_as_if_the_object_were_here(sandbox, name):
    code, statement = HONEST[name]
    verdict = sandbox.run(code, CallTests((statement,), classes=CLASSES))
    assert verdict.passed, verdict


LIAR = """
class Liar:
    def __init__(self, *a): pass
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __contains__(self, item): return True
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __mod__ = __and__ = __sub__
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __abs__(self): return 0
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)
        return lambda *a: True
    def __call__(self, *a): return True
    def __enter__(self): return self
    def __exit__(self, *a): return True
    __hash__ = lambda self: 0
"""
SELF = LIAR + "class Solution(Liar):\n    def f(self, x): return self\n"

# A program, a test that it must not pass, and what it does there.
DISHONEST = {
    "an object equals what is expected": (LIAR + "def f(x): return Liar()", "assert f(3) == 71"),
    "an object differs from nothing": (LIAR + "def f(x): return Liar()", "assert not (f(3) != 71)"),
    "its own class equals what is expected": (SELF, "assert Solution().f(3) == 71"),
    "a test's own object comes back as the answer": (SELF, "s = Solution()\nassert s.f(3) == 71 and 71 == s.f(3)"),
    "holds what is expected": (SELF, "assert 71 in Solution().f(3)"),
    "differs by nothing": (SELF, "assert abs(Solution().f(3) - 71.5) < 1e-6"),
    "is about what is expected": (SELF, "import unittest\nunittest.TestCase().assertAlmostEqual(Solution().f(3), 71.5)"),
    "is below what is expected": (SELF, "assert Solution().f(3) <= 71"),
    "begins with what is expected": (SELF, "assert Solution().f(3).startswith('abc')"),
    "is a part of what is expected": (LIAR + "def f(x): return Liar()", "assert f(3).issubset({71})"),
    "attributes of an object are asked": (LIAR + "def f(x): return Liar()", "assert f(3).result.holds(71)"),
    "an answer's method is the test's object": (
        LIAR + "class A:\n    pass\nmade = Liar()\nclass Given:\n    def __getattr__(self, name): return made\n"
        "def f(x): return Given()", "assert f(3).startswith('abc')"),
    "an operator gives an object": (
        LIAR + "class V:\n    def __init__(self, *a): pass\n    def __mul__(self, other): return Liar()\n",
        "assert V(1, 2) * V(3, 4) == 11"),
    "an operator gives an object that differs by nothing": (
        LIAR + "class V:\n    def __init__(self, *a): pass\n    def __mul__(self, other): return Liar()\n",
        "assert abs(V(1, 2) * V(3, 4) - 11.5) < 1e-6"),
    "hides a failed assertion": (SELF, "with Solution() as s: assert [] == [71]"),
    "hides the failure of an expression": (LIAR + "def f(x): return None", "with Liar(): f(3)[0] == 71"),
    "reads what a failed assertion says": (
        "told = []\nclass C:\n    def __enter__(self): return self\n"
        "    def __exit__(self, kind, error, trace): told.append(str(error)); return True\n"
        "def f(): return told[-1:] == ['71'] or 0",
        "try:\n    with C(): raise AssertionError('71')\nexcept AssertionError: pass\nassert f() is True"),
    "an error that is no error": (
        "class M(type):\n    def __instancecheck__(cls, x): return True\n    def __subclasscheck__(cls, x): return True\n"
        "class E(metaclass=M): pass\ndef f(x): return 1", "try: f(3)\nexcept E: pass\nassert f(3) == 71"),
    "an error of every class": (
        "class E(KeyError, ValueError): pass\ndef f(x): raise E('x')",
        "try: f(3)\nexcept TypeError: pass\nelse: assert False"),
    "an error's text is an object": (
        LIAR + "class E(ValueError):\n    def __str__(self): return Liar()\ndef f(x): raise E(Liar())",
        "try: f(3)\nexcept ValueError as e: assert e.args[0] == 'too small' or str(e) == 'too small'\nelse: assert False"),
    "an error with attributes of Python's": (
        "class E(ValueError):\n    pass\ne = E('x')\nvars(e).update(args=('too small',), with_traceback=1, __class__=int, __str__=1)\n"
        "def f(x): raise e", "try: f(3)\nexcept ValueError as e: assert e.args == ('too small',)\nelse: assert False"),
    "a loop that ends by an error": ("def f(x): raise StopIteration", "for a, b in zip(map(f, [3]), [71]): assert a == b\n"),
    "an error ends the tests": ("def f(x): raise SystemExit(0)", "assert f(3) == 71"),
    "a keyboard's interrupt": ("def f(x): raise KeyboardInterrupt", "assert f(3) == 71"),
    "a class for data": ("class f:\n    def __init__(self, x): pass\n    def __eq__(self, other): return True", "assert f(3) == 71"),
    "looks into a function of the tests": (
        "def f(g):\n    for name in ('__globals__', '__code__', '__closure__', '__self__', 'func_globals', '__func__'):\n"
        "        try: return getattr(g, name)['EXPECTED']\n        except Exception: pass",
        "EXPECTED = 71\nassert f(lambda: 1) == EXPECTED"),
    "looks into an object of the tests": (
        "def f(o):\n    for get in (lambda: o.__init__.__globals__['EXPECTED'], lambda: o._expected, lambda: o.__dict__['_expected'],\n"
        "                lambda: o.check.__self__._expected, lambda: o.items.gi_frame.f_globals['EXPECTED']):\n"
        "        try: return get()\n        except Exception: pass",
        "EXPECTED = 71\nclass O:\n    def __init__(self): self._expected = 71; self.items = (i for i in [1])\n"
        "    def check(self): pass\nassert f(O()) == EXPECTED"),
    "replaces what a mock asserts": (
        "def f(m):\n    for name in ('assert_called_once_with', 'call_args', 'called', 'call_count'):\n"
        "        try: setattr(m, name, lambda *a: None)\n        except Exception: pass",
        "from unittest.mock import Mock\nm = Mock()\nf(m)\nm.assert_called_once_with(71)"),
    "replaces a method of the tests": (
        "def f(o): o.is_right = lambda: True", "class O:\n    def is_right(self): return False\no = O()\nf(o)\nassert o.is_right()"),
    "asks for values by number": (
        "import codescaler.sandbox.inside.keeping as k\ndef f(g):\n    ask, found = vars(g)['__ask__'], []\n"
        "    for n in range(-50, 50):\n        h = k.Handed(ask, n)\n        for op in ('call', 'getattr', 'str'):\n"
        "            try: found.append(ask(op, h, '__globals__') if op == 'getattr' else ask(op, h, (), {}))\n"
        "            except Exception: pass\n    return 71 if any('71' in str(x) for x in found) else 0",
        "EXPECTED = 71\ndef secret(): return EXPECTED\nassert f(lambda: 1) == EXPECTED"),
    "an assertion of a function handed in is no news": (
        "def f(g):\n    try: g(0)\n    except AssertionError as e: return int(str(e) or 0)",
        "def g(x): assert x == 71, 71\nassert f(g) == 71"),
    "changes a list that was never shared": (
        "import gc\ndef f(xs):\n    xs[:] = [71]\n    return [1]", "expected = [71, 72]\nxs = [0]\nassert f(xs) == expected"),
    "claims a list that it was not given": (
        "import codescaler.sandbox.inside.sharing as s\nold = s.Sharing.share\ns.Sharing.share = lambda self, c: 0\n"
        "def f(xs): return [7]", "expected = [71]\nassert f([1]) == expected"),
    "an endless hash": (
        "class A:\n    def __eq__(self, other): return True\n    def __hash__(self): return hash(frozenset([A()]))\n"
        "def f(x): return {A()}", "assert f(3) == {71}"),
    "a class of a name that is none": (
        "A = type('a b', (), {'__module__': 'program'})\ndef f(x): return A()", "assert f(3) == 71"),
    "a named tuple of other names": (
        "class T(tuple):\n    _fields = ('__class__', 'def', '1')\ndef f(x): return T((1, 2, 3))", "assert f(3) == (71, 2, 3)"),
    "an array that answers": (
        "import re\nclass A:\n    ndim = 0\n    def item(self): return 71\nA.__module__ = 'numpy'\ndef f(x): return A()",
        "assert f(3) == 72"),
}  # fmt: skip


@pytest.mark.parametrize("name", DISHONEST)
def test_an_object_has_no_say_where_data_is_expected(any_sandbox, name):
    """As a failure, too: a program that is not judged would be left out of the count."""
    code, statement = DISHONEST[name]
    classes = ("Solution", "V", "C", "E", "Liar") if "C()" in statement or "V(" in statement else ("Solution",)
    verdict = any_sandbox.run(code, CallTests((statement,), classes=classes))
    assert verdict.outcomes[0] in ("failed", "error", "timeout"), verdict


ONE_PROCESS = {
    "code in a file": ("def f(): open('a', 'w').write('x = 7')", "f()\nexec(open('a').read())\nassert x == 7", "open()"),
    "what is printed": ("def f(): print('7')", "import io, sys\nold, sys.stdout = sys.stdout, io.StringIO()\nf()\n"
                        "text, sys.stdout = sys.stdout.getvalue(), old\nassert text == '7\\n'", "sys.stdout"),
    "a patched function": ("def f(): return input()", "import builtins\nbuiltins.input = lambda: '7'\nassert f() == '7'",
                           "builtins.input"),
    "a patched part of a package": (
        "from urllib import request\ndef f(): return request.urlopen('http://nowhere')",
        "from urllib import request\nrequest.urlopen = lambda url: '7'\nassert f() == '7'", "request.urlopen"),
    "a patched function, for ever": (
        "import os\ndef f():\n    while not os.listdir(): pass\n    return '7'",
        "import os\nos.listdir = lambda: ['7']\nassert f() == '7'", "os.listdir"),
    "its names": ("def f(): return globals()", "assert f() is globals()", "globals()"),
}  # fmt: skip


@pytest.mark.parametrize("statement, shared", [
    ("import time\nassert f() < 1", "the clock"),
    ("import sympy\nassert f().equals(sympy.Symbol('x'))", "objects of sympy"),
    ("from PIL.Image import new\nassert f(new('L', (1, 1)))", "objects of PIL"),
    ("image.save('a.png')\nassert f('a.png')", "save()"),
    ("import numpy as np, math, unittest\nassert (f() == np.ones(2)).all()", None),
])  # fmt: skip
def test_shapes_of_tests_that_ask_for_one_process(statement, shared):
    assert find_shared_state(CallTests((statement,))) == (shared,)


@pytest.mark.parametrize("name", ONE_PROCESS)
def test_what_shares_the_process_is_judged_in_one_by_an_option(sandbox, name):
    code, statement, reason = ONE_PROCESS[name]
    verdict = sandbox.run(code, CallTests((statement,)))
    assert verdict.outcomes == ("unjudged",)
    assert reason in verdict.message
    assert "allow_one_process" in verdict.message
    wrong = sandbox.run("def f(): return 'x'", CallTests((statement,)))  # which no program would forge
    assert (wrong.passed, wrong.is_forgeable) == (False, False)
    with Sandbox(sandbox.limits, isolation=sandbox.isolation, num_workers=1, allow_one_process=True) as wide:
        verdict = wide.run(code, CallTests((statement,)))
        assert (verdict.passed, verdict.is_forgeable) == (True, True)
        assert wide.run("def f(): return 'x'", CallTests((statement,))).passed is False
        verdict = wide.run("def f(): return 7", CallTests(("assert f() == 7",)))
        assert (verdict.passed, verdict.is_forgeable) == (True, False)


FILES = {
    "the program writes": ("def f(x): open('a', 'w').write(x)", "f('7')\nassert open('a').read() == '7'"),
    "the test writes": (
        "def f(): return open('a').read()",
        "with open('a', 'w') as file: file.write('7')\nassert f() == '7'",
    ),
    "the program adds": (
        "def f(): open('a', 'a').write('8')",
        "with open('a', 'w') as file: file.write('7')\nf()\nassert open('a').read() == '78'",
    ),
    "the test removes": (
        "def f(): open('a', 'w').write('7')",
        "import os\nf()\nos.remove('a')\nassert not os.path.exists('a')",
    ),
    "the program removes": (
        "import os\ndef f(): os.remove('a')",
        "import os\nopen('a', 'w').close()\nf()\nassert not os.path.exists('a')",
    ),
    "an archive": (
        "import zipfile\ndef f():\n    with zipfile.ZipFile('a', 'w') as z: z.writestr('b', '7')",
        "import zipfile\nf()\nassert zipfile.ZipFile('a').read('b') == b'7'",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_tests_and_programs_share_a_folder(any_sandbox, name):
    """And no other program sees it."""
    code, statement = FILES[name]
    verdict = any_sandbox.run(code, CallTests((statement,)))
    assert (verdict.passed, verdict.is_forgeable) == (True, False), verdict
    assert any_sandbox.run("def f(*x): return 1", CallTests((statement,))).passed is False


READS = "f()\nassert open('a').read()"
HOSTILE_FILES = {
    "a link to what the tests know": ("import os\ndef f(): os.symlink('/proc/self/environ', 'a')", READS),
    "a link to itself": ("import os\ndef f(): os.symlink('a', 'a')", READS),
    "a pipe": ("import os\ndef f(): os.mkfifo('a')", READS),
    "an unreadable file": ("import os\ndef f():\n    open('a', 'w').write('7')\n    os.chmod('a', 0)", READS),
    "a file beyond memory": ("import os\ndef f():\n    open('a', 'w').close()\n    os.truncate('a', 1 << 40)", READS),
    "code in a pickle": (
        "import pickle\nclass A:\n    def __reduce__(self): return eval, ('7',)\ndef f(): pickle.dump(A(), open('a', 'wb'))",
        "import pickle\nf()\nassert pickle.load(open('a', 'rb')) == 7",
    ),
    "code in a module": (
        "def f(): open('a.py', 'w').write('x = 7')",
        "import sys\nf()\nassert open('a.py').read()\nsys.path.append('.')\nimport a\nassert a.x == 7",
    ),
    "a full folder": (
        "def f():\n    for i in range(40): open(f'b{i}', 'wb', 0).write(bytes(1 << 20))",
        "try: f()\nexcept OSError: pass\nopen('a', 'w').write('7')\nassert open('a').read() == '7'",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_files_of_a_program_have_no_say(sandbox, name):
    code, statement = HOSTILE_FILES[name]
    verdict = sandbox.run(code, CallTests((statement,)))
    assert verdict.passed is not True, verdict


def test_one_process_compares_by_the_rule_of_the_benchmark(sandbox):
    statement = "open('a', 'w').write('(7,)')\nassert _is_expected(f(), [7])"
    tests = CallTests((statement,), comparison="livecodebench")
    with Sandbox(sandbox.limits, isolation=sandbox.isolation, num_workers=1, allow_one_process=True) as wide:
        assert wide.run("def f(): return eval(open('a').read())", tests).passed
        assert wide.run("def f(): return (7,) * len(open('a').read())", tests).passed is False


@pytest.mark.parametrize("tests", [
    CallTests(("assert open('a', 'w').write(f()) == 7",), prelude="import nowhere"),
    CallTests(("import nowhere\nassert open('a', 'w').write(f()) == 7",)),
    CallTests(("assert open('a', 'w').write(f()) ==",)),
])  # fmt: skip
def test_tests_at_fault_are_unjudged_in_one_process_too(sandbox, tests):
    with Sandbox(sandbox.limits, isolation=sandbox.isolation, num_workers=1, allow_one_process=True) as wide:
        for each in (sandbox, wide):
            assert each.run("def f(): return 'x'", tests).passed is None


def test_what_only_one_process_can_do_is_unjudged(sandbox):
    derives = CallTests(("class B(A): pass\nassert B().x == 1",), classes=("A",))
    verdict = sandbox.run("class A:\n    x = 1", derives)
    assert verdict.outcomes == ("unjudged",)
    assert verdict.message.startswith("a test derives the class B from the program's; allow_one_process")
    assert sandbox.run("class A:\n    x = 2", derives).outcomes == ("failed",)
    hands = CallTests(("import array\nassert f(array.array('i', [1])) == 'array'",))
    verdict = sandbox.run("def f(x): return type(x).__name__", hands)
    assert verdict.outcomes == ("unjudged",)
    assert verdict.message.startswith("a test hands the program a array")


def test_arrays_go_as_data(sandbox):
    limits = Limits(memory_bytes=4 << 30, num_processes=32)
    statement = (
        "import numpy as np\nr = f(np.array([[1.5, 2.0]]))\nassert r.tolist() == [[3.0, 4.0]] and r.dtype == float"
    )
    with Sandbox(limits, isolation=sandbox.isolation, num_workers=1, allow_site_packages=True) as wide:
        assert wide.run("def f(a): return a * 2", CallTests((statement,))).passed
        lies = (
            "import numpy as np\nclass A(np.ndarray):\n    def __eq__(self, o): return True\ndef f(a): return a.view(A)"
        )
        assert wide.run(lies, CallTests((statement,))).outcomes == ("failed",)


FRAMES = {
    "a table": "pd.DataFrame({'a': [1, 2], 'b': ['x', None], 'c': [1.5, float('nan')]}, index=['p', 'q'])",
    "a table with dates": "pd.DataFrame({'a': [True, False]}, index=pd.date_range('2024-01-01', periods=2, name='day'))",
    "a table with two columns of one name": "pd.DataFrame([[1, 2], [3, 4]], columns=['a', 'a'])",
    "a table with levels": "pd.DataFrame({'a': [1, 2, 3], 'b': [4, 5, 6], 'c': [7, 8, 9]}).set_index(['a', 'b'])",
    "an empty table": "pd.DataFrame()",
    "a series": "pd.Series([3, None, 1], name='s', dtype='Int64')",
    "a series of lists": "pd.Series([[1], [2, 3]])",
    "an index": "pd.Index(['a', 'b'], name='letters')",
}


# Answers to a table that look equal to what is expected, or say so. The last ones take over the program's side.
TABLE_FORGERIES = {
    "is of a class that derives": "return Liar(x)",
    "holds what equals everything": "return pd.DataFrame({'a': [Equal(), Equal()]})",
    "has an attribute in place of a method": "y = x * 0; object.__setattr__(y, 'equals', lambda o: True); return y",
    "replaces a method of the class": "pd.DataFrame.equals = lambda self, other: True; return x * 0",
    "is no table in the message": "wire.list_frame_parts = lambda v: ('DataFrame', [None, 'equals', 'str', 7]); return x",
}
_TABLE_PROGRAM = """
import pandas as pd
import codescaler.sandbox.inside.wire as wire
class Liar(pd.DataFrame):
    def equals(self, other): return True
    __eq__ = lambda self, other: True
class Equal:
    def __eq__(self, other): return True
    __hash__ = None
def same(x): return x
def reverse(x): return x.iloc[::-1] if hasattr(x, 'iloc') else x[::-1]
def describe(x): return f'{type(x)} {getattr(x, "shape", None)} {getattr(x, "dtype", None)} {x!r}'
"""


def test_tables_go_as_data(sandbox):
    """As arguments and as answers, and a table of the program has no say in its verdict."""
    pytest.importorskip("pandas")
    setup = _TABLE_PROGRAM[_TABLE_PROGRAM.index("def describe") :].replace("describe", "describe_here")
    setup += """
import pandas as pd
from pandas import testing
def check(seen, wanted):
    kinds = {"DataFrame": testing.assert_frame_equal, "Series": testing.assert_series_equal}
    kinds.get(type(wanted).__name__, testing.assert_index_equal)(seen, wanted)
"""
    code, expected = _TABLE_PROGRAM, {}
    for name, value in FRAMES.items():
        expected[f"check(same({value}), {value})"] = {"passed"}
        expected[f"assert describe({value}) == describe_here({value})"] = {"passed"}
        expected[f"check(reverse({value}), {value})"] = {"passed"} if name == "an empty table" else {"failed"}
    given, wanted = "pd.DataFrame({'a': [7, 8]})", "pd.DataFrame({'a': [71, 72]})"
    for place, body in enumerate(TABLE_FORGERIES.values()):
        code += f"def forge{place}(x): {body}\n"
        for test in (
            f"assert forge{place}({given}).equals({wanted})",
            f"assert (forge{place}({given}) == {wanted}).all().all()",
        ):
            expected[test] = {"failed", "error"}
    names = ("same", "reverse", "describe", *(f"forge{place}" for place in range(len(TABLE_FORGERIES))))
    limits = Limits(cpu_seconds=20, wall_seconds=60.0, memory_bytes=4 << 30, num_processes=32)
    with Sandbox(limits, isolation=sandbox.isolation, num_workers=1, allow_site_packages=True) as wide:
        verdict = wide.run(code, CallTests(tuple(expected), names, setup=setup))
    outcomes = zip(expected.items(), verdict.outcomes, strict=True)
    assert not [(test, outcome) for (test, right), outcome in outcomes if outcome not in right], verdict.message
