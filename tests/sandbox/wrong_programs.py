"""Wrong programs that look for a way past a verdict of failure: each with its tests and the verdict that it has to get.

All of them run within `LIMITS`, and get the same verdict every time, whatever else the machine does.
"""

from codescaler.sandbox import Limits
from codescaler.types import CallTests, StdioTests

LIMITS = Limits(cpu_seconds=1, wall_seconds=4.0, memory_bytes=256 << 20)
FAILED, ERROR, TIMEOUT = ("failed",), ("error",), ("timeout",)
SECRET = 7_460_912_385_540_177_283
TESTS = CallTests((f"assert f(3) == {SECRET}",), ("f",))

_BURN = """
import os, resource, signal, time
def burn():  # 0.6 s of CPU time, where 1 s is allowed
    while time.process_time() < 0.6: pass
def burn_in_children():  # who live on
    ours, theirs = os.pipe()
    for _ in range(3):
        if os.fork() == 0:
            burn()
            os.write(theirs, b'.')
            signal.pause()
        os.read(ours, 1)
"""
_INSTEAD = """
import codescaler.sandbox.inside.wire as wire
encode, answer = wire.Codec.encode, ['instead']
wire.Codec.encode = lambda self, value: MESSAGE if value is answer else encode(self, value)
def f(x): return answer
"""
_NAMES = """
import codescaler.sandbox.inside.program as inside
old = inside._answer
def answer(codec, namespace, operation, asked):
    return old(codec, namespace, operation, asked) if operation != 'names' else codec.encode(NAMES)
inside._answer = answer
def f(x): return 1
"""


def _check(*statements, **tests):
    return CallTests(statements, **{"entry_points": ("f",), **tests})


# What takes its time where it is not counted: children that nobody waits for, or what comes after the last answer. Each
# gives the right answer.
_EVASIONS = {
    "ignores its children's ends": f"""{_BURN}
def f(x):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            burn()
            os._exit(0)
        try: os.wait()
        except ChildProcessError: pass
    return {SECRET}
""",
    "has its children's ends ignored by the kernel": f"""{_BURN}
import ctypes
class Action(ctypes.Structure):
    _fields_ = [('handler', ctypes.c_void_p), ('mask', ctypes.c_ubyte * 128), ('flags', ctypes.c_int),
                ('restorer', ctypes.c_void_p)]
def f(x):
    ctypes.CDLL(None).sigaction(17, ctypes.byref(Action(flags=2)), None)
    for _ in range(3):
        if os.fork() == 0:
            burn()
            os._exit(0)
        try: os.wait()
        except ChildProcessError: pass
    return {SECRET}
""",
    "leaves children that still live": f"""{_BURN}
def f(x):
    burn_in_children()
    return {SECRET}
""",
    "leaves grandchildren to nobody": f"""{_BURN}
def f(x):
    ours, theirs = os.pipe()
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                burn()
                os.write(theirs, b'.')
            os._exit(0)
        os.read(ours, 1)
    return {SECRET}
""",
    "has children that end without a signal": f"""{_BURN}
import ctypes, platform
libc = ctypes.PyDLL(None)
def f(x):
    ours, theirs = os.pipe()
    for _ in range(3):
        if libc.syscall(56 if platform.machine() == 'x86_64' else 220, 0, 0, 0, 0, 0) == 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
            burn()
            os.write(theirs, b'.')
            os._exit(0)
        os.read(ours, 1)
    return {SECRET}
""",
    "has children that are its parent's": f"""{_BURN}
import ctypes, platform
libc = ctypes.PyDLL(None)
def f(x):
    ours, theirs = os.pipe()
    for _ in range(3):
        if libc.syscall(56 if platform.machine() == 'x86_64' else 220, 0x8000 | 17, 0, 0, 0, 0) == 0:
            burn()
            os.write(theirs, b'.')
            os._exit(0)
        os.read(ours, 1)
    return {SECRET}
""",
    "interrupts who counts": f"""{_BURN}
def f(x):
    burn_in_children()
    for number in range(1, 65):
        try: os.kill(1, number)
        except OSError: pass
    time.sleep(0.1)
    return {SECRET}
""",
    "limits who counts": f"""{_BURN}
def f(x):
    burn_in_children()
    for name in ('RLIMIT_AS', 'RLIMIT_DATA', 'RLIMIT_NOFILE', 'RLIMIT_FSIZE', 'RLIMIT_CPU', 'RLIMIT_STACK'):
        try: resource.prlimit(1, getattr(resource, name), (0, 0))
        except OSError: pass
    return {SECRET}
""",
    "has who counts wait": f"""{_BURN}
def f(x):
    burn_in_children()
    try:
        os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 1, 19)
    except OSError: pass
    return {SECRET}
""",
}

# Time that runs out on either side, each with the same verdict.
_TIME_OUTS = {
    "computes for ever": ("def f(x):\n    while True: pass", TESTS),
    "computes for ever once it has answered": (
        "def f(x):\n    while x == 4: pass\n    return 1",
        _check("assert f(3) == 1", "assert f(4) == 1", "assert f(3) == 1"),
    ),
    "yields for ever": ("def f(x):\n    while True: yield 1", _check("assert list(f(3)) == [1]")),
    "returns what a pattern cannot stand": (
        "def f(x): return 'a' * 60",
        _check("import re\nassert re.fullmatch('(a|a)*b', f(3))"),
    ),
    "returns what cannot be put into a set": (
        _INSTEAD.replace("MESSAGE", "[[0], [['set', *([hex((n << 61) - n)] for n in range(60000))]]]"),
        TESTS,
    ),
    "waits for ever": ("import time\ndef f(x): time.sleep(1000)", TESTS),
    "answers half a message and waits": (
        "import os, time\ndef f(x):\n    for n in range(3, 64):\n        try: os.write(n, b'\\xff\\0\\0\\0[')\n"
        "        except OSError: pass\n    time.sleep(1000)",
        TESTS,
    ),
}

# Answers that a test cannot use, or that raise where the judge is not prepared.
_ANSWERS = {
    "returns an object that is sliced": (
        "class A: pass\ndef f(x): return A()",
        _check("assert f(3)[0:2] == [7, 8]"),
        (*FAILED, *ERROR),
    ),
    "returns an object that slices itself": (
        "class A:\n    def __getitem__(self, k): return self\ndef f(x): return A()",
        _check("assert f(3)[0:2] == [7, 8]", "a = f(3)\na[1:] = [8]\nassert a == [7, 8]"),
        (*FAILED, *ERROR),
    ),
    "returns an object that sorts": (
        "class A:\n    def sort(self, **k): pass\ndef f(x): return A()",
        _check("a = f(3)\na.sort(key=lambda n: -n)\nassert a == [8, 7]", "assert f(3)(lambda n: n) == 3"),
        (*FAILED, *ERROR),
    ),
    "returns nothing where the setup asks": (
        "def f(x): return None",
        _check("assert result[0] == 7", setup="result = f(3)"),
        FAILED,
    ),
    "returns nothing where an earlier test asks": (
        "def f(x): return None",
        _check("result = f(3)", "assert result.real == 7"),
        ("passed", *FAILED),
    ),
    "answers with a name that is another's": (
        _NAMES.replace("NAMES", "{make_key(hash('f')): 1}"),
        _check(
            "assert f(3) == 7",
            prelude="class Key:\n    def __hash__(self): return self.number\n"
            "    def __eq__(self, other): return self.nothing\n"
            "def make_key(number):\n    key = Key()\n    key.number = number\n    return key",
        ),
        ERROR,
    ),
    "answers with what is no name": (_NAMES.replace("NAMES", "{1: 2, (): 3}"), TESTS, ERROR),
    "answers with what is no value": (
        "import codescaler.sandbox.inside.program as inside\nold = inside._answer\n"
        "inside._answer = lambda *a: (old(*a), True) if a[2] == 'call' else old(*a)\ndef f(x): return 3",
        _check("assert f(3) == 7", "assert f([3]) == 7"),
        ERROR,
    ),
    "sends what fills the memory": (
        "import codescaler.sandbox.inside.wire as wire\n"
        "def f(x): wire.json.dumps = lambda message: '[\"' + 'x' * (62 << 20) + '\"]'",
        TESTS,
        ERROR,
    ),
    "closes its connection": (
        "import os\ndef f(x):\n    os.closerange(3, 64)\n    while True: os.getpid()",
        TESTS,
        ERROR,
    ),
    "raises what is named like nothing": (
        "def f(x): raise type('SystemExit', (BaseException,), {'__module__': None})",
        TESTS,
        ERROR,
    ),
    "ends by a signal": ("import os\ndef f(x): os.kill(os.getpid(), 9)", TESTS, ERROR),
    "ends at once": ("import os\nos._exit(0)", TESTS, ERROR),
}

# Objects that say of themselves what a test wants to hear.
_SELF = "class Solution:\n    def f(self, x): return {0}\n"
_YES = """
class Yes:
    def __contains__(self, item): return True
    def __iter__(self): return iter(())
    def __eq__(self, other): return True
    def __bool__(self): return True
    def __call__(self, *args): return True
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __getattr__(self, name): return lambda *args: True
"""
_METHOD_TESTS = CallTests(
    (
        "assert 7 in Solution().f(3)",
        "assert Solution().f(3).startswith('abc')",
        "assert Solution().f(3).issubset({7})",
        "assert Solution().f(3).isdigit()",
        "assert Solution().f(3) == 7",
        "assert Solution().f(3) in (7, 8)",
        "assert Solution().f(3) > 7",
        "assert any(part == 7 for part in Solution().f(3))",
    ),
    ("Solution",),
    classes=("Solution",),
)
_FORGERIES = {
    "a method returns an object of its own class": (f"{_YES}{_SELF.format('Yes()')}", _METHOD_TESTS, FAILED),
    "a method returns an object in an object": (
        _YES + _SELF.format("Yes()").replace("x): return", "x): self.it = Yes(); return self.it or"),
        _METHOD_TESTS,
        FAILED,
    ),
    "a method returns its own object": (
        _YES.replace("Yes", "Solution") + "    def f(self, x): return self\n",
        _METHOD_TESTS,
        FAILED,
    ),
    "a function returns an object": (
        _YES + "def f(x): return Yes()",
        _check(*(statement.replace("Solution().", "") for statement in _METHOD_TESTS.statements)),
        FAILED,
    ),
    "a method is hidden by an object of another class": (
        "def f(p):\n    p.__class__ = Other\n    p.is_correct = ANSWER\n    return p".replace("ANSWER", "bool"),
        _check(
            "assert f(Point(3)).is_correct(7)",
            prelude="class Point:\n    def __init__(self, x): self.x = x\n"
            "    def is_correct(self, x): return self.x == x\nclass Other: pass",
        ),
        FAILED,
    ),
    "a method is hidden by a function": (
        "def f(p):\n    p.__class__ = Other\n    p.is_correct = lambda x: True\n    return p",
        _check(
            "assert f(Point(3)).is_correct(7)",
            prelude="class Point:\n    def __init__(self, x): self.x = x\n"
            "    def is_correct(self, x): return self.x == x\nclass Other: pass",
        ),
        FAILED,
    ),
}

_OUTPUT = {
    "prints a number without its zeros": ("print(101)", "000101"),
    "prints a number in other words": ("print('1e5')", "100000"),
    "prints without indentation": ("print('*')\nprint('***')", " *\n***"),
    "prints a fraction for a whole number": ("print(3.0)", "3"),
    "prints fewer blanks": ("print('* *')", "*   *"),
}

Case = tuple[str, CallTests | StdioTests, tuple[str, ...]]

WRONG: dict[str, Case] = {
    **{name: (code, TESTS, TIMEOUT) for name, code in _EVASIONS.items()},
    **{name: (code, tests, ("passed", *TIMEOUT)) for name, (code, tests) in _TIME_OUTS.items()},
    **_ANSWERS,
    **_FORGERIES,
    **{name: (code, StdioTests((("", expected),)), FAILED) for name, (code, expected) in _OUTPUT.items()},
}
