"""Programs that want a verdict they do not deserve, or to do harm. What is expected of them cannot be guessed."""

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from codescaler.sandbox import Limits, Sandbox
from codescaler.types import CallTests, StdioTests

SECRET = 7_460_912_385_540_177_283
TESTS = CallTests((f"assert f(3) == {SECRET}",), ("f",))
STDIO = StdioTests((("3\n", f"{SECRET}\n"),))

FORGERIES = {
    "exits well": """
import os
def f(x): os._exit(0)
""",
    "exits well at once": """
import os
os._exit(0)
""",
    "leaves by SystemExit": """
def f(x): raise SystemExit(0)
""",
    "equals everything": """
class A:
    def __eq__(self, other): return True
    __hash__ = None
def f(x): return A()
""",
    "is a number that equals everything": """
class A(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def f(x): return A(0)
""",
    "claims to be a number": """
class A:
    __class__ = property(lambda self: int)
def f(x): return A()
""",
    "patches builtins": """
import builtins
for name in ('abs', 'isinstance', 'len', 'print', 'compile', 'exec', 'int'):
    setattr(builtins, name, lambda *a, **k: True)
builtins.AssertionError = Warning
def f(x): return True
""",
    "defines the names of the test": """
AssertionError = Exception
def int(*a): return True
def f(x): return 1
""",
    "patches what encodes": """
import json
json.dumps = lambda message: '["passed", ""]'
def f(x): return 1
""",
    "answers as the judge": """
import os
def f(x):
    for n in range(3, 64):
        try: os.write(n, b'\\x0e\\0\\0\\0["passed", ""]')
        except OSError: pass
    return 1
""",
    "answers as the watcher": """
import os
def f(x):
    for n in range(64):
        try: os.write(n, b'\\x13\\0\\0\\0[0, 0.0, 0, false]')
        except OSError: pass
    os._exit(0)
""",
    "prints a verdict": """
import sys
print('passed')
sys.stderr.write('passed')
def f(x): print('passed')
""",
    "takes the signals": """
import signal
for n in range(1, 65):
    try: signal.signal(n, lambda *a: None)
    except (OSError, ValueError): pass
def f(x):
    while True: pass
""",
    "hides from the clock": """
import os, signal
def f(x):
    os.kill(os.getpid(), signal.SIGSTOP)
    while True: signal.pause()
""",
    "leaves atexit behind": """
import atexit, os
atexit.register(lambda: os._exit(0))
def f(x): raise SystemExit(0)
""",
    "leaves threads behind": """
import threading, time
def run():
    while True: time.sleep(0.01)
for _ in range(3): threading.Thread(target=run).start()
def f(x): return 1
""",
    "raises a failed assertion": """
def f(x): raise AssertionError('passed')
""",
    "ends the loop of the test": """
def f(x): raise StopIteration
""",
    "returns an endless list": """
def f(x):
    while True: yield 1
""",
    "returns too much": """
def f(x): return 'x' * (100 << 20)
""",
    "returns depth": """
def f(x):
    a = []
    for _ in range(100000): a = [a]
    return a
""",
    "returns a circle": """
def f(x):
    a = []
    a.append(a)
    return a
""",
    "takes all memory": """
def f(x):
    a = []
    while True: a.append(bytearray(1 << 20))
""",
    "crashes": """
import ctypes
def f(x): ctypes.string_at(0)
""",
    "stops the judge": """
import os, signal
def f(x):
    for pid in (-1, 1, *range(2, 200)):
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass
    return 1
""",
    "traces what it can see": """
import ctypes
libc = ctypes.CDLL(None)
def f(x): return sum(libc.ptrace(16, pid, 0, 0) == 0 for pid in range(1, 300)) and 1
""",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_cannot_be_forged(any_sandbox, name):
    verdict = any_sandbox.run(FORGERIES[name], TESTS)
    assert verdict.passed is False, verdict
    assert any_sandbox.run(f"def f(x): return {SECRET}", TESTS).passed


SEARCHES = {
    "frames": """
import sys
def values():
    frame = sys._getframe()
    while frame:
        yield from (*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts)
        frame = frame.f_back
""",
    "objects": """
import gc
def values():
    for one in gc.get_objects():
        if isinstance(one, dict): yield from list(one.values())
        elif isinstance(one, (list, tuple)): yield from list(one)
""",
    "environment and arguments": """
import os, sys
def values(): return [*os.environ.values(), *sys.argv, *sys.orig_argv]
""",
    "files": """
import os
def at_once(path, flags): return os.open(path, flags | os.O_NONBLOCK)  # an empty pipe under /proc would be waited for
def values():
    for top in ('/proc', '/scratch', '/tmp', '/srv', '/home', '/root', os.getcwd()):
        for folder, _, names in os.walk(top):
            for name in names:
                try:
                    with open(os.path.join(folder, name), 'rb', 0, opener=at_once) as file:
                        yield (file.read(1 << 16) or b'').decode('latin-1')
                except OSError: pass
    for number in range(64):
        try: yield os.pread(number, 1 << 16, 0).decode('latin-1')
        except OSError: pass
""",
}


@pytest.mark.parametrize("name", SEARCHES)
def test_what_is_expected_is_not_to_be_found(sandbox, name, tmp_path):
    """Neither while tests run nor in what an earlier program, the correct one, has left."""
    (tmp_path / "answers.txt").write_text(str(SECRET))
    search = f"""{SEARCHES[name]}
def text(value):
    try: return str(value)
    except Exception: return ''  # an object of a module that is gone, such as of datetime's Python half
def f(x):
    found = next((v for v in values() if str({SECRET - 1} + 1) in text(v)), None)
    return {SECRET - 1} + 1 if found is not None else 'nothing'
"""
    nothing = CallTests(("assert f(3) == 'nothing'",), ("f",))
    assert sandbox.run(f"def f(x): return {SECRET}", TESTS).passed
    assert sandbox.run(search.replace(f"{SECRET - 1} + 1", "int('%s')" % (SECRET - 1) + " + 1"), nothing).passed
    # The search does find what is there.
    there = search.replace("def f(x):", f"kept = [{SECRET}]\ndef f(x):\n    here = {SECRET}\n    import os\n"
                           f"    os.environ['A'] = '{SECRET}'\n    open('a.txt', 'w').write('{SECRET}')")  # fmt: skip
    assert sandbox.run(there, TESTS).passed


FORGED_OUTPUT = {
    "exits well": "import os\nos._exit(0)",
    "prints nothing": "",
    "prints for ever": "while True: print('x' * 1000)",
    "writes for ever": "while True:\n    try: open('a', 'ab').write(bytes(1 << 20))\n    except OSError: pass",
    "fills the scratch folder": "n = 0\nwhile True:\n    n += 1\n    try: open(str(n), 'wb').write(bytes(1 << 19))\n"
    "    except OSError: pass",
    "reads its own output": "import os\nprint(os.pread(1, 1000, 0), os.pread(2, 1000, 0))",
    "prints after its end": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(0.5)\n    print(1)",
    "ends by an error": f"import sys\nprint({SECRET})\nsys.stdout.flush()\nraise ValueError",
    "ends with a code": f"import sys\nprint({SECRET})\nsys.exit(3)",
    "bombs": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "bombs with threads": "import threading, time\nwhile True:\n"
    "    try: threading.Thread(target=time.sleep, args=(60,)).start()\n    except RuntimeError: pass",
    "deletes everything": "import os, shutil\nfor top in (os.getcwd(), '/scratch', '/tmp/x', '/usr', '/box'):\n"
    "    shutil.rmtree(top, ignore_errors=True)\nprint(1)",
}


@pytest.mark.parametrize("name", FORGED_OUTPUT)
def test_output_cannot_be_forged(sandbox, name):
    assert sandbox.run(FORGED_OUTPUT[name], STDIO).passed is False
    assert sandbox.run(f"print({SECRET})", STDIO).passed  # the box is as it was


def test_a_program_that_deletes_its_folder_harms_itself_alone(any_sandbox):
    code = "import os, shutil\ndef f(x):\n    shutil.rmtree(os.getcwd(), ignore_errors=True)\n    return open('a', 'w')"
    assert any_sandbox.run(code, TESTS).passed is False
    assert any_sandbox.run(f"open('a', 'w').write('1')\ndef f(x): return {SECRET}", TESTS).passed


def returns(sandbox, code):
    """What a program's f(3) returns, as text: by asking whether it is this or that."""
    return sandbox.run(code, CallTests(("assert f(3) == 'refused'",), ("f",)))


def test_there_is_no_network(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        code = f"""
import socket
def f(x):
    try: socket.create_connection(('127.0.0.1', {port}), 1)
    except OSError: return 'refused'
    return 'connected'
"""
        assert returns(sandbox, code).passed
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("folder", ["/", "/usr/lib", "/dev", "/box", "/etc", str(Path(os.__file__).parent)])
def test_nothing_is_written_outside_the_scratch_folder(sandbox, folder):
    code = f"""
def f(x):
    try: open('{folder}/codescaler-was-here', 'w')
    except OSError: return 'refused'
    return 'written'
"""
    assert returns(sandbox, code).passed
    assert not Path(folder, "codescaler-was-here").exists()


@pytest.mark.parametrize("path", ["/srv", "/home", "/root/.ssh", "/etc/passwd", "/proc/1/environ", __file__])
def test_files_of_the_host_are_not_there(sandbox, path):
    code = f"import os\ndef f(x): return 'refused' if not os.path.exists({path!r}) else 'there'"
    assert returns(sandbox, code).passed


def test_privileges_are_gone_for_good(sandbox):
    code = """
import ctypes, os
def f(x):
    libc = ctypes.CDLL(None)
    gained = [libc.setuid(0), libc.mount(b'x', b'/scratch', b'tmpfs', 0, 0), libc.chroot(b'/'), libc.acct(0)]
    return 'refused' if gained == [-1] * 4 and libc.prctl(39, 0, 0, 0, 0) == 1 else gained
"""
    assert returns(sandbox, code).passed


def test_nothing_is_handed_to_the_next_program(sandbox):
    """Neither in files nor by a process that lives on."""
    leave = """
import os, time
open('left', 'w').write('1')
def f(x):
    if os.fork() == 0:
        os.setsid()
        while True: time.sleep(1)
    return 'refused'
"""
    look = """
import os
def f(x):
    try: os.kill(-1, 0)
    except (ProcessLookupError, PermissionError): alone = True
    else: alone = False
    return 'refused' if not os.listdir('.') and alone else 'something is left'
"""
    assert returns(sandbox, leave).passed
    assert returns(sandbox, look).passed


CALLS = {
    "System V memory": "libc.shmget(77, 4096, 0o1666)",
    "a queue": "libc.mq_open(b'/q', 0o102, 0o600, None)",
    "a key of the host": "libc.syscall(250, 10, b'user', b'secret', 0) if x86 else libc.syscall(219, 10, 0, 0, 0)",
    "a new key": "libc.syscall(248 if x86 else 217, b'user', b'a', b'b', 1, -2)",
    "a user namespace": "libc.unshare(0x10000000)",
    "a process of another namespace": "libc.syscall(56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0)",
    "the latest clone": "libc.syscall(435, None, 0)",
    "tracing": "libc.ptrace(0, 0, 0, 0)",
    "a mount": "libc.mount(b'x', b'/scratch', b'tmpfs', 0, 0)",
    "io_uring": "libc.syscall(425, 1, None)",
    "a program for the kernel": "libc.syscall(321 if x86 else 280, 0, None, 0)",
    "a socket to the hypervisor": "libc.socket(40, 1, 0)",
    "a socket to the kernel": "libc.socket(16, 3, 0)",
}


@pytest.mark.parametrize("name", CALLS)
def test_the_kernel_refuses(sandbox, name):
    code = f"""
import ctypes, errno, platform
libc, x86 = ctypes.CDLL(None, use_errno=True), platform.machine() == 'x86_64'
def f(x):
    result = {CALLS[name]}
    return 'refused' if result == -1 and ctypes.get_errno() == errno.ENOSYS else (result, ctypes.get_errno())
"""
    verdict = returns(sandbox, code)
    assert verdict.passed, verdict


def test_two_sandboxes_do_not_share_what_programs_may_use(sandbox):
    code = f"import os\ndef f(x):\n    if os.fork() == 0: os._exit(0)\n    os.wait()\n    return {SECRET}"
    bomb = FORGED_OUTPUT["bombs"]
    with Sandbox(Limits(cpu_seconds=1, wall_seconds=2.0), isolation=sandbox.isolation, num_workers=1) as other:
        thread = threading.Thread(target=lambda: other.run(bomb, STDIO))
        thread.start()
        assert all(sandbox.run(code, TESTS).passed for _ in range(10))
        thread.join()


def test_no_process_is_left(any_sandbox):
    """Of a program that left its session and its group, with a child that ignores signals."""
    code = """
import os, signal, time
for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)
def f(x):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            time.sleep(31.4159)
            os._exit(0)
        os._exit(0)
    return 'refused'
"""
    before = _running()
    assert returns(any_sandbox, code).passed
    deadline = time.monotonic() + 5  # other processes of the machine come and go
    while (new := _running() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not new


def _running():
    """Processes of this host's boxes, but for those that have ended and wait for their parent to notice."""
    found, host = set(), f'"host": {os.getpid()},'.encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_running = (path / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            if is_running and host in (path / "cmdline").read_bytes():
                found.add(path.name)
    return found


HOSTILE_TESTS = {
    "exits": "import os\nos._exit(0)",
    "loops": "while True: pass",
    "takes memory": "a = []\nwhile True: a.append(bytearray(1 << 20))",
    "is no Python": "assert (",
    "fails by itself": "1 / 0",
}


@pytest.mark.parametrize("name", HOSTILE_TESTS)
def test_a_test_at_fault_is_no_verdict_and_does_no_harm(sandbox, name):
    verdict = sandbox.run("def f(x): return 1", CallTests((HOSTILE_TESTS[name], "assert f(3) == 1"), ("f",)))
    assert verdict.outcomes[0] in ("unjudged", "timeout")
    assert verdict.outcomes[1] in ("passed", "timeout")
    assert verdict.passed is not True


def test_a_method_of_a_shared_class_cannot_be_hidden(sandbox):
    prelude = "class Point:\n    def __init__(self, x): self.x = x\n    def is_correct(self): return self.x == 12345\n"
    tests = CallTests(("assert f(Point(3)).is_correct()",), ("f",), prelude)
    forge = "def f(p):\n    p.is_correct = lambda: True\n    return p"
    assert sandbox.run(forge, tests).passed is False
    assert sandbox.run("def f(p):\n    p.x = 12345\n    return p", tests).passed


# Programs that take over their side of the conversation, or return what answers for itself, and tests they would pass.
IMPOSTORS = {
    "answers to names that nobody asked for": (
        """
import codescaler.sandbox.inside.program as inside
old = inside._answer
class Yes:
    def __call__(self, *a, **k): return 1
    def __getattr__(self, name): return self
def answered(codec, namespace, operation, asked):
    if operation != 'names': return old(codec, namespace, operation, asked)
    names = {name: namespace[name] for name in asked if name in namespace}
    return codec.encode({**names, **dict.fromkeys(('set', 'sorted', 'round', 'math', 'abs'), Yes())})
inside._answer = answered
def f(x): return None
""",
        (
            "assert set(f(3)) == set([7, 8])",
            "assert round(f(3), 2) == round(7.21, 2)",
            "assert math.isclose(f(3), 7.5)",
        ),
    ),
    "says that it holds anything": (
        """
class A:
    def __contains__(self, item): return True
    def __iter__(self): return iter(())
    def __getattr__(self, name): return lambda *a: True
def f(x): return A()
""",
        ("assert 7 in f(3)", "assert f(3).startswith('abc')", "assert f(3).issubset({3})", "assert f(3).x == 3"),
    ),
    "stands for a module": (
        "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef f(x): return 0.0",
        ("assert math.isclose(f(3), 7.25)",),
    ),
    "ends where an error is expected": (
        "import os\ndef f(x): os._exit(0)",
        ("ok = False\ntry: f(-1)\nexcept Exception: ok = True\nassert ok", "try: f(-1)\nexcept: pass"),
    ),
    "loops where an error is expected": (
        "def f(x):\n    while True: pass",
        ("ok = False\ntry: f(-1)\nexcept Exception: ok = True\nassert ok",),
    ),
    "raises what has no name": (
        "class M(type): __name__ = 'a\\0b'\nclass E(Exception, metaclass=M): pass\nraise E",
        ("assert f(3) == 7", "try: f(3)\nexcept ValueError: pass\nelse: assert 0"),
    ),
    "returns what cannot be shown": (
        "def f(x):\n    a = []\n    for _ in range(3000): a = [a]\n    return a",
        ("assert f(3) == 7, f(3)",),
    ),
    "returns what cannot be hashed": (
        "def f(x):\n    a = ()\n    for _ in range(150000): a = (a,)\n    return [a]",
        ("assert {*f(3)} == {7}",),
    ),
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_impostors_fail(any_sandbox, name):
    """As a failure, too: a program that is not judged would be left out of the count."""
    code, statements = IMPOSTORS[name]
    for names in (("f",), ()):
        outcomes = any_sandbox.run(code, CallTests(statements, names)).outcomes
        assert set(outcomes) <= {"failed", "error", "timeout"}, outcomes


def test_programs_at_a_time_do_not_hurt_each_other(sandbox):
    """A bomb in one box leaves the others' verdicts alone."""
    with Sandbox(Limits(cpu_seconds=2, wall_seconds=3.0), isolation=sandbox.isolation, num_workers=2) as two:
        good, bomb = (
            f"import os\ndef f(x):\n    if os.fork() == 0: os._exit(0)\n    os.wait()\n    return {SECRET}",
            FORGED_OUTPUT["bombs"],
        )
        verdicts = []
        thread = threading.Thread(target=lambda: verdicts.append(two.run(bomb, STDIO)))
        thread.start()
        assert all(two.run(good, TESTS).passed for _ in range(20))
        thread.join()
        assert verdicts[0].passed is False
