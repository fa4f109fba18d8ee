"""Verdicts on honest programs, and what a sandbox is asked for."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from codescaler.errors import InvalidInput, SandboxUnavailable
from codescaler.sandbox import Limits, Sandbox, box, isolation
from codescaler.sandbox import sandbox as module
from codescaler.sandbox.inside.wire import MAX_MESSAGE_BYTES
from codescaler.types import CallTests, StdioTests, Verdict


def check(sandbox, code, *statements, **tests):
    return sandbox.run(code, CallTests(statements, **tests))


def test_each_test_has_its_outcome(any_sandbox):
    code = "def f(x):\n    if x == 3: raise ValueError('three')\n    if x == 4: return None\n    return x * 2"
    verdict = check(
        any_sandbox, code, "assert f(1) == 2", "assert f(2) == 5, 'no'", "assert f(3) == 6", "assert f(4) > 1"
    )
    assert verdict.outcomes == ("passed", "failed", "error", "failed")
    assert verdict.message == "AssertionError: no"
    assert (verdict.passed, verdict.num_passed) == (False, 1)
    assert 0 < verdict.cpu_seconds < 1


def test_a_process_that_ends_costs_one_test(any_sandbox):
    code = "import os\ndef f(x):\n    if x == 2: os._exit(3)\n    return x"
    verdict = check(any_sandbox, code, "assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 3")
    assert verdict.outcomes == ("passed", "error", "passed")
    assert verdict.message == "the program's process ended with exit code 3"


@pytest.mark.parametrize(
    ("program", "ending"),
    [("os._exit(3)", (3, False)), ("os.kill(os.getpid(), 15)", (-15, False)), ("time.sleep(60)", (-9, True))],
)
def test_how_a_process_ended_shows_where_it_had_ended_just_before_it_is_stopped(program, ending):
    script = f"""
import json, os, select, time
from codescaler.sandbox.inside.reaper import end_all
pid = os.fork()
if pid == 0:
    {program}
select.select([os.pidfd_open(pid)], [], [], 1)
status, was_stopped = end_all(pid, None, everyone=False)
print(json.dumps([os.waitstatus_to_exitcode(status), was_stopped]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == list(ending)


def test_time_runs_out_for_all_tests_that_are_left(any_sandbox):
    code = "def f(x):\n    while x == 2: pass\n    return x"
    verdict = check(any_sandbox, code, "assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 3")
    assert verdict.outcomes == ("passed", "timeout", "timeout")
    assert verdict.message == "took more than 1 s of CPU time"
    assert 1.0 < verdict.cpu_seconds < 3.0  # the second test has met a process of its own
    waits = "import time\ndef f(x): time.sleep(60)"
    assert check(any_sandbox, waits, "assert f(1) == 1").message == "ran for more than 4 s"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(", "SyntaxError: '(' was never closed (<program>, line 1)"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("", "the program does not define f"),
        ("f = [].index", "ValueError: 1 is not in list"),
        ("def f(x): return f(x)", "RecursionError: maximum recursion depth exceeded"),
        ("x = '\ud800'\ndef f(x): return x + 'a'", "UnicodeEncodeError"),
    ],
)
def test_errors_say_what_happened(sandbox, code, message):
    verdict = check(sandbox, code, "assert f(1) == 2", entry_points=("f",))
    assert verdict.outcomes == ("error",)
    assert verdict.message.startswith(message)


@pytest.mark.parametrize(
    ("code", "statement"),
    [
        ("def sum(a, b): return a * b", "assert sum(2, 3) == 6"),  # a name that Python has too
        ("def f(x): x.append(1)", "a = [0]\nf(a)\nassert a == [0, 1]"),
        ("def f(x): x['a'][0].append(1); x['b'] = 2", "a = {'a': [[0]]}\nf(a)\nassert a == {'a': [[0, 1]], 'b': 2}"),
        ("def f(x): x[0].append(1)", "inner = []\nf([inner])\nassert inner == [1]"),
        ("def f(x): x.clear()", "a = {1, 2}\nf(x=a)\nassert not a"),
        ("def f(n):\n    for i in range(n): yield i * i", "assert list(f(4)) == [0, 1, 4, 9]\nassert next(f(1)) == 0"),
        ("def f(n): return map(str, range(n))", "assert ''.join(f(3)) == '012'"),
        ("class A:\n    def __init__(self): self.x = []\n    def add(self, v): self.x.append(v); return self",
         "a = A()\na.add(1).add(2)\nassert a.x == [1, 2]\na.y = 5\nassert a.y == 5 and not hasattr(a, 'z')"),
        ("class A:\n    def __getitem__(self, k): return k * 2\n    def __len__(self): return 3\n"
         "    def __contains__(self, k): return k == 1",
         "a = A()\nassert a[4] == 8 and len(a) == 3 and 1 in a and 2 not in a"),
        ("def f(x): raise KeyError(x)", "try: f(1)\nexcept KeyError: pass\nelse: assert False"),
        ("class Own(ValueError): pass\ndef f(x): raise Own('a')",
         "try: f(1)\nexcept Exception as e: assert type(e).__name__ == 'Own'\nelse: assert False"),
        ("LIMIT = 5\ndef f(x): return x", "assert f(LIMIT) == 5"),
        ("def f(x): return lambda y: x + y", "assert f(1)(2) == 3"),
        ("def f(x): return [abs, x]", "assert f(1)[1] == 1 and f(1)[0](-3) == 3"),
        ("def f(a, t): return [x for x in a if isinstance(x, t)]", "assert f([1, 'a'], int) == [1]"),
        ("def f(x): return float('nan')", "import math\nassert math.isnan(f(1))"),
        ("def f(x): return 10 ** 6000", "assert f(1) == 10 ** 6000"),
        ("def f(*a, **k): return (a, k)", "assert f(1, b=2) == ((1,), {'b': 2})"),
        ("def f(x): print('x' * 100000); return x", "assert f(1) == 1"),
        ("import sys\ndef f(x): return sys.stdin.read()", "assert f(1) == ''"),
        ("if __name__ == '__main__': raise ValueError\ndef f(x): return x", "assert f(1) == 1"),
        ("def f(x): return set('abc')", "assert f(1) == {'c', 'b', 'a'}"),
        ("from collections import OrderedDict\nclass A(OrderedDict):\n    def first(self): return next(iter(self))",
         "a = A()\na['x'] = 1\nassert a.first() == 'x'"),
        ("from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int",
         "assert A(3).x == 3"),
        ("def f(d): d.append(3)", "from collections import deque\nd = deque([1])\nf(d)\nassert list(d) == [1, 3]"),
        ("def f(x): return (y for y in (1, 2))", "assert 2 in f(0) and 3 not in f(0)"),
        ("result = 'x' * (70 << 20)\ndef f(x): return x", "result = f(1)\nassert result == 1"),
        ("def f(x): return open('/dev/null').read()", "assert f(1) == ''"),
        ("import multiprocessing\ndef f(x):\n    with multiprocessing.Lock(): return x", "assert f(1) == 1"),
        ("import os, signal\ndef f(x):\n    if os.fork() == 0: os.kill(os.getpid(), signal.SIGTERM)\n"
         "    return os.WTERMSIG(os.wait()[1])", "assert f(1) == 15"),
        ("def f(x): return 7.25", "assert math.isclose(f(1), 7.25)"),
        ("import functools, sys\nsys.setrecursionlimit(10**6)\n@functools.lru_cache(None)\n"
         "def f(n): return 0 if n == 0 else 1 + f(n - 1)", "assert f(15000) == 15000"),
        ("def f(x): return True", "assert f(1) is True"),
        ("import heapq, decimal, unicodedata\ndef f(x): return heapq.nlargest(1, x)", "assert f([1, 2]) == [2]"),
    ],
)  # fmt: skip
def test_a_test_runs_as_if_the_program_were_here(any_sandbox, code, statement):
    names = ("sum",) if "sum(" in code else ()
    verdict = check(any_sandbox, code, statement, entry_points=names, classes=("A",))
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("code", "statement"),
    [
        ("def f(x): return object()", "assert f(1)"),
        ("def f(x): return object()", "assert not f(1)"),
        ("def f(x): return object()", "assert f(1) == f(1)"),
        ("def f(x): return (i for i in [1])", "assert f(1) == [1]"),
        ("def f(x): return None", "assert f(1) < 3"),
        ("def f(x): return x", "assert f('1') == 1"),
        ("def f(x): x = x + [1]", "a = [0]\nf(a)\nassert a == [0, 1]"),
        ("class B:\n    def x(self): return 1\ndef f(x): return B()", "assert f(1).x() == 2"),
        (
            "from collections import OrderedDict\ndef f(x): return OrderedDict(b=1, a=2)",
            "from collections import OrderedDict\nassert f(1) == OrderedDict(a=2, b=1)",
        ),
        (
            "import datetime as d\ndef f(x): return d.datetime(2020, 1, 1, tzinfo=d.timezone.utc)",
            "import datetime\nassert f(1) == datetime.datetime(2020, 1, 1)",
        ),
    ],
)
def test_what_is_not_right_fails(any_sandbox, code, statement):
    assert check(any_sandbox, code, statement).outcomes == ("failed",)


PRELUDE = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next

def list_node(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head

def is_same_list(a, b):
    return a is b or (a is not None and b is not None and a.val == b.val and is_same_list(a.next, b.next))
"""
REVERSE = """
class Solution:
    def reverse(self, head):
        last = None
        while head:
            head.next, last, head = last, head, head.next
        return last
"""


@pytest.mark.parametrize("own", ["", "class ListNode:\n    def __init__(self, val=0, next=None): self.val = val\n"])
def test_classes_of_the_prelude_are_known_on_both_sides(any_sandbox, own):
    statement = "assert is_same_list(Solution().reverse(list_node([1, 2, 3])), list_node([3, 2, 1]))"
    tests = {"prelude": PRELUDE, "entry_points": ("Solution",), "classes": ("Solution",)}
    assert check(any_sandbox, own + REVERSE, statement, **tests).passed
    wrong = REVERSE.replace("return last", "return None")
    assert check(any_sandbox, own + wrong, statement, **tests).outcomes == ("failed",)


def test_a_setup_builds_on_the_programs_classes(any_sandbox):
    code = "class Node:\n    def __init__(self, x): self.x, self.left = x, None\n"
    code += "def depth(n): return 1 + depth(n.left) if n else 0"
    setup = "root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)"
    tests = {"setup": setup, "classes": ("Node",)}
    assert check(any_sandbox, code, "assert depth(root) == 3", "assert depth(root.left) == 2", **tests).passed
    verdict = check(any_sandbox, "def depth(n): return 3", "assert depth(root) == 3", setup=setup)
    assert verdict.outcomes == ("error",)
    assert "Node" in verdict.message


def test_a_helper_of_the_setup_asks_too(any_sandbox):
    """What it fails on is the program's."""
    setup = "def check(x, n): assert len(f(x)) == n"
    assert check(any_sandbox, "def f(x): return [x]", "check(3, 1)", setup=setup).passed
    assert check(any_sandbox, "def f(x): return None", "check(3, 1)", setup=setup).outcomes == ("failed",)


def test_processes_of_a_program_are_few(any_sandbox):
    """Each may use up its time, and a hundred tests would be a hundred times that."""
    code = "import os\ndef f(x): os._exit(0)"
    verdict = check(any_sandbox, code, *["assert f(1) == 1"] * 6)
    assert verdict.outcomes == ("error",) * 6


def test_time_of_children_counts(sandbox):
    code = """
import os
def f(x):
    for _ in range(3):
        if os.fork() == 0:
            for _ in range(10 ** 9): pass
    return [os.wait() for _ in range(3)] and x
"""
    verdict = check(sandbox, code, "assert f(1) == 1")
    assert verdict.outcomes == ("timeout",)
    assert verdict.cpu_seconds > 1.5


def test_more_than_may_be_printed_is_not_judged(any_sandbox):
    tests = StdioTests((("", "x" * (2 << 20)),))
    assert any_sandbox.run("print('x' * (2 << 20))", tests).outcomes == ("unjudged",)
    assert any_sandbox.run("print(3)", StdioTests((("\ud800", "4"),))).outcomes == ("failed",)


def test_tests_at_fault_say_so(any_sandbox):
    code = "def f(x): return x"
    for tests in (
        {"prelude": "1 / 0"},
        {"setup": "import nothing_of_that_name"},
        {"setup": "("},
    ):
        verdict = check(any_sandbox, code, "assert f(1) == 1", "assert f(2) == 2", **tests)
        assert verdict.outcomes == ("unjudged", "unjudged")
        assert verdict.passed is None
    assert check(any_sandbox, code).passed is None


def test_programs_are_run_as_scripts(any_sandbox):
    tests = StdioTests((("3\n4\n", "7\n"), ("1\n1\n", "2\n")))
    assert any_sandbox.run("a = int(input())\nprint(a + int(input()))", tests).passed
    code = """
import sys
def main():
    a, b = map(int, sys.stdin.buffer.read().split())
    sys.stdout.buffer.write(b'%d' % (a + b))
if __name__ == '__main__':
    main()
    sys.exit()
"""
    assert any_sandbox.run(code, tests).passed
    own_streams = """
import io, os, sys
class Quick:
    def __init__(self): self.parts = []
    def write(self, text): self.parts.append(text.encode('ascii'))
    def flush(self): os.write(1, b''.join(self.parts))
sys.stdout = Quick()
input = lambda: sys.stdin.readline().rstrip()
print(int(input()) + int(input()))
"""
    assert any_sandbox.run(own_streams, tests).passed
    closes = "import sys\nwith sys.stdin as fin, sys.stdout as fout: fout.write(str(sum(map(int, fin))))"
    assert any_sandbox.run(closes, tests).passed
    beside = "import sys\nsys.__stdout__.write(str(int(input()) + int(input())))"
    assert any_sandbox.run(beside, tests).passed
    assert any_sandbox.run(
        "out = open(1, 'w', closefd=False)\nout.write(str(int(input()) + int(input())))", tests
    ).passed
    assert any_sandbox.run("print(int(input()) + int(input()))\nexit()\nprint(1)", tests).passed
    threads = "import threading\nthreading.Thread(target=lambda: print(int(input()) + int(input()))).start()"
    assert any_sandbox.run(threads, tests).passed
    verdict = any_sandbox.run("print(7)", tests)
    assert verdict.outcomes == ("passed", "failed")
    assert verdict.message == r"printed '7\n', not '2\n'"
    verdict = any_sandbox.run("a = int(input())\nprint(7 if a > 1 else 1 // 0)", tests)
    assert verdict.outcomes == ("passed", "error")
    assert verdict.message.endswith("ZeroDivisionError: integer division or modulo by zero")
    assert any_sandbox.run("while True: pass", tests).outcomes == ("timeout", "timeout")


def test_many_come_in_order_and_are_taken_as_needed(sandbox):
    taken = []

    def jobs():
        for number in range(40):
            taken.append(number)
            yield f"def f(x): return {number}", CallTests((f"assert f(0) == {number - number % 2}",))

    with Sandbox(isolation=sandbox.isolation, num_workers=2) as two:
        verdicts = two.run_many(jobs())
        first = next(verdicts)
        assert len(taken) < 20
        assert [first.passed, *(verdict.passed for verdict in verdicts)] == [True, False] * 20


def test_a_box_holds_only_what_programs_often_import(sandbox):
    """Each process of each job copies what a box has loaded."""
    code = "import sys\ndef f(): return sorted({'asyncio', 'logging', 'ssl', 'unittest'} & set(sys.modules))"
    verdict = sandbox.run(code, CallTests(("assert f() == [], f()",)))
    assert verdict.passed, verdict.message


def test_processes_of_a_job_have_random_numbers_of_their_own(sandbox):
    """Boxes fork without the interpreter's hooks, but for the process that runs a program or tests."""
    code = "import random\ndef f(): return random.random()"
    test = CallTests(("import random\nassert f() != random.random()",))
    assert all(sandbox.run(code, test).passed for _ in range(2))


def test_many_can_be_left_early(sandbox):
    with Sandbox(isolation=sandbox.isolation, num_workers=2) as two:
        verdicts = two.run_many([("def f(x): return x", CallTests(("assert f(0) == 0",)))] * 20)
        assert next(verdicts).passed
        verdicts.close()
    assert not [thread for thread in threading.enumerate() if "codescaler-sandbox" in thread.name]


def test_a_broken_box_is_an_error_and_the_next_one_is_new(sandbox):
    with Sandbox(isolation=sandbox.isolation, num_workers=1) as one:
        assert check(one, "def f(x): return 1", "assert f(1) == 1").passed
        box = one._boxes.get()
        box._control.shutdown(socket.SHUT_RDWR)
        one._boxes.put(box)
        with pytest.raises(SandboxUnavailable):
            check(one, "def f(x): return 1", "assert f(1) == 1")
        assert check(one, "def f(x): return 1", "assert f(1) == 1").passed


def test_a_closed_sandbox_leaves_no_process(sandbox):
    one = Sandbox(isolation=sandbox.isolation, num_workers=1)
    process = one._boxes.get()
    one._boxes.put(process)
    one.close()
    assert process._process.returncode is not None
    assert check(one, "def f(x): return 1", "assert f(1) == 1").passed
    one.close()


def test_the_floor(monkeypatch, sandbox):
    def refuse(kind, *arguments):
        if kind != "limits":
            raise SandboxUnavailable("not on this host")
        return Box(sandbox.isolation, *arguments)  # "limits" may need a Python that all may read

    Box = module.Box
    monkeypatch.setattr(module, "Box", refuse)
    with pytest.raises(SandboxUnavailable, match=r"cannot be isolated here .*namespaces: not on this host.*bubblewrap"):
        Sandbox(num_workers=1)
    with Sandbox(num_workers=1, floor="limits") as weak:
        assert weak.isolation == "limits"
        assert "limits alone" in weak.description


def test_an_interpreter_that_does_not_work_is_no_sandbox(monkeypatch, sandbox):
    """Or else every program that needs what cannot be read would be wrong."""
    monkeypatch.setattr(module, "_TRIAL", "import nothing_of_that_name")
    with pytest.raises(SandboxUnavailable, match="No module named 'nothing_of_that_name'"):
        Sandbox(isolation=sandbox.isolation, num_workers=1)


def test_without_bubblewrap(monkeypatch):
    monkeypatch.setattr(isolation.shutil, "which", lambda name: None)
    with pytest.raises(SandboxUnavailable, match="bwrap is not installed"):
        Sandbox(num_workers=1, isolation="bubblewrap")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"floor": "none"}, "isolation 'none' is not known; use one of bubblewrap, namespaces, limits"),
        ({"isolation": "docker"}, "isolation 'docker' is not known"),
        ({"num_workers": 0}, "num_workers=0; give at least 1"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        Sandbox(**arguments)


@pytest.mark.parametrize("name", ["cpu_seconds", "memory_bytes", "num_processes", "output_bytes", "scratch_bytes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, None, "1"])
def test_limits_are_checked(name, value):
    with pytest.raises(InvalidInput, match=f"{name} is {value!r}"):
        Limits(**{name: value})


def test_limits_hold(sandbox):
    limits = Limits(memory_bytes=128 << 20, num_processes=3, output_bytes=1000, scratch_bytes=1 << 20)
    code = """
import os, threading, time
def memory(n):
    try: bytearray(n)
    except MemoryError: return False
    return True
def threads(n):
    started = 0
    for _ in range(n):
        try: threading.Thread(target=time.sleep, args=(0.2,), daemon=True).start()
        except RuntimeError: break
        started += 1
    return started
def write(size, count):
    try:
        for number in range(count):
            with open(str(number), 'wb') as file: file.write(bytes(size))
    except OSError as error: return error.errno
    return 0
"""
    with Sandbox(limits, isolation=sandbox.isolation, num_workers=1) as small:
        verdict = check(
            small, code, "assert memory(1 << 20) and not memory(200 << 20)", "assert 1 <= threads(20) <= 10",
            "assert write(1000, 1) == 0 and write(1001, 1) == 27 and write(1000, 2000) == 28",
        )  # fmt: skip
        assert verdict.passed, verdict


def test_site_packages_are_there_on_request_only(sandbox):
    code, statement = "def f(x):\n    import numpy\n    return int(numpy.arange(x).sum())", "assert f(4) == 6"
    assert check(sandbox, code, statement).outcomes == ("error",)
    limits = Limits(memory_bytes=4 << 30, num_processes=32)
    with Sandbox(limits, isolation=sandbox.isolation, num_workers=1, allow_site_packages=True) as wide:
        assert check(wide, code, statement).passed, check(wide, code, statement)


def test_a_verdict_says_what_is_known():
    assert Verdict(("passed", "unjudged")).passed is None
    assert Verdict(("failed", "unjudged")).passed is False
    assert Verdict(()).passed is None
    assert Verdict(("passed", "passed")).passed is True


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/bin/python3").exists(), reason="needs root, to be somebody else"
)
@pytest.mark.parametrize("kind", ["namespaces", "limits"])
def test_somebody_who_is_not_root(tmp_path, kind):
    """As most users are. The system's Python, since this one may be out of their reach."""
    package = Path(module.__file__).parents[1]
    subprocess.run(["cp", "-r", package, tmp_path], check=True)
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.name.startswith(("pytest-", "popen-")):
            folder.chmod(folder.stat().st_mode | 0o011)
    code = f"""
from codescaler.sandbox import Sandbox
from codescaler.types import CallTests
tests = CallTests(("assert f(1) == 2",))
with Sandbox(isolation={kind!r}, num_workers=1) as sandbox:
    print([sandbox.run(code, tests).passed for code in ("def f(x): return 2", "import os\\nos._exit(0)")])
"""
    done = subprocess.run(
        ["/usr/bin/python3", "-B", "-c", code], env={"PYTHONPATH": str(tmp_path)}, cwd="/", user=65534, group=65534,
        extra_groups=[], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "[True, False]", done.stderr
    assert sys.version_info >= (3, 10)


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("print(math.isqrt(int(input())))", {"prelude": "import math\n"}),
        ("from __future__ import annotations\nprint(3)", {"prelude": "import math\n"}),
        ("import sys\nn = int(input())\nif n == 9:\n    print(3)\n    return\nprint(4)", {"allows_return": True}),
        ("for line in open('in.txt'): print(int(line) // 3)", {"input_file": "in.txt"}),
        ("open('out.txt', 'w').write(str(int(input()) // 3))", {"output_file": "out.txt"}),
        ("print(int(open('a').read()) // 3)", {"input_file": "a", "output_file": "b"}),
        ("print(3.0000001)", {"comparison": "apps"}),
    ],
)
def test_programs_run_as_their_benchmark_has_it(any_sandbox, code, tests):
    verdict = any_sandbox.run(code, StdioTests((("9\n", "3"),), **tests))
    assert verdict.passed, verdict
    assert any_sandbox.run(code, StdioTests((("9\n", "3"),))).passed is not True or "__future__" in code


def test_a_return_at_top_level_is_an_error_without_leave(sandbox):
    verdict = sandbox.run("print(3)\nreturn", StdioTests((("", "3"),)))
    assert verdict.outcomes == ("error",) and "'return' outside function" in verdict.message


def test_long_numbers_have_no_limit_but_time(sandbox):
    code = "def f(x): return int('9' * x) + 1\nLONG = " + "1" * 5000
    number = "1" + "0" * 5000
    assert check(sandbox, code, f"assert f(5000) == {number}", f"assert str(LONG) == '{'1' * 5000}'").passed
    assert sandbox.run("print(int(input()) + 1)", StdioTests((("9" * 5000, number),))).passed
    assert not sandbox.run("print(int(input()) + 2)", StdioTests((("9" * 5000, number),))).passed


def test_tests_may_bring_more_time_than_the_limits(sandbox):
    code = "import time\ndef f(x):\n    while time.process_time() < 1.3: pass\n    return x"
    assert check(sandbox, code, "assert f(1) == 1").outcomes == ("timeout",)
    assert check(sandbox, code, "assert f(1) == 1", cpu_seconds=3).passed
    assert check(sandbox, code, "assert f(1) == 1").outcomes == ("timeout",)


def test_a_rule_of_comparison_is_at_hand_in_calls(sandbox):
    code = "def f(x): return (x, 2)"
    assert check(sandbox, code, "assert _is_expected(f(1), [1, 2])", comparison="livecodebench").passed
    assert not check(sandbox, code, "assert _is_expected(f(1), [1, 3])", comparison="livecodebench").passed
    forger = "class A:\n    def f(self): return self\n    def __eq__(self, other): return True"
    tests = {"classes": ("A",), "entry_points": ("A",), "comparison": "apps"}
    assert check(sandbox, forger, "assert _is_expected(A().f(), [1])", **tests).outcomes == ("failed",)


def test_a_missing_package_of_the_tests_names_the_option(sandbox):
    for tests in (
        {"prelude": "import nothing_of_that_name"},
        {"setup": "import nothing_of_that_name"},
        {"statements": ("import nothing_of_that_name\nassert f(1) == 1",)},
    ):
        verdict = sandbox.run("def f(x): return x", CallTests(**{"statements": ("assert f(1) == 1",), **tests}))
        assert verdict.outcomes == ("unjudged",) and "--allow-site-packages" in verdict.message
    verdict = check(sandbox, "def f(x): import nothing_of_that_name", "assert f(1) == 1")
    assert verdict.outcomes == ("error",) and "--allow-site-packages" not in verdict.message


def test_each_test_has_the_time_of_its_own(sandbox):
    code = "from time import process_time as t\ndef f(x):\n    end = t() + 0.4\n    while t() < end: pass\n    return x"
    statements = [f"assert f({n}) == {n}" for n in range(5)]
    assert check(sandbox, code, *statements).passed
    slow = code.replace("return x", "\n    while x == 4: pass\n    return x")
    assert check(sandbox, slow, *statements).outcomes == ("passed",) * 4 + ("timeout",)


def test_a_program_may_ask_for_a_larger_stack(sandbox):
    code = (
        "import resource, sys, threading\nresource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY,) * 2)\n"
        "sys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n"
        "def main():\n    def f(n): return n and 1 + f(n - 1)\n    print(f(30000))\n"
        "thread = threading.Thread(target=main)\nthread.start()\nthread.join()"
    )
    verdict = sandbox.run(code, StdioTests((("", "30000"),)))
    assert verdict.passed, verdict


def test_what_is_too_large_for_a_message_is_said_with_its_size(sandbox, monkeypatch):
    """The tests that follow are judged, also with what the message held."""
    tests = CallTests(
        ("held = [1]\nf([held, 'x' * 80_000_000])", "assert f(held) == 1 and f('ab') == 2"),
        ("f",),
    )
    with Sandbox(Limits(), isolation=sandbox.isolation, num_workers=1) as wide:
        verdict = wide.run("def f(a): return len(a)", tests)
    assert verdict.outcomes == ("unjudged", "passed"), verdict
    assert "hands to the program takes 80000" in verdict.message and f"more than {MAX_MESSAGE_BYTES}" in verdict.message
    monkeypatch.setattr(box, "MAX_MESSAGE_BYTES", 1000)
    verdict = sandbox.run("def f(a): ...", CallTests((f"f('{'x' * 1000}')",), ("f",)))
    assert verdict.outcomes == ("unjudged",) and "the tests: 1" in verdict.message and "make them" in verdict.message
    for tests in (StdioTests((("", "1"),)), CallTests(("assert f(1) == 1",), ("f",))):
        verdict = sandbox.run(f"def f(x): return x\nprint(1) #{'x' * 1000}", tests)
        assert verdict.outcomes == ("error",) and "the program: 1" in verdict.message
