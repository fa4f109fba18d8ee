"""Attacks on compilers, and by programs in other languages than Python: on the host, on limits, and on the verdict."""

import pytest

from codescaler.sandbox.languages import LANGUAGES
from codescaler.types import StdioTests

from .conftest import find_missing

SECRET = "7460912385540177283"
QUICK = ("c", "javascript")

# Time for what another limit has to end: on some machines half a gigabyte of memory takes more than a second to get.
LONG_S = 20

# What a compiler is asked to do, the outcome, and words of the message.
COMPILED = {
    "is a header that never ends": ("c", '#include "/dev/zero"\nint main() {}', "error", ""),
    "includes a file of the host": ("c", '#include "/etc/passwd"\nint main() {}', "error", "No such file"),
    "embeds a file of the host": ("c", 'asm(".incbin \\"/etc/passwd\\""); int main() {}', "error", "file not found"),
    "includes this file": ("c", f'#include "{__file__}"\nint main() {{}}', "error", "No such file"),
    "includes itself without end": (
        "c", "#if __INCLUDE_LEVEL__ < 50\n#include __FILE__\n#include __FILE__\n#endif\n", "timeout",
        "its compiler took",
    ),
    "makes a giant program": ("c", "char a[1 << 30] = {1};\nint main() {}", "error", ""),
    "sends codes to the terminal": ("c", '#error \x1b]0;title\x07 \x1b[2J\nint main() {}', "error", r"\x1b[2J"),
    "is a long message": ("c", f"#error {'x' * 1_000_000}\nint main() {{}}", "error", "xxx"),
    "reports errors without end": (
        "cpp", "template<class T> struct A { A<A<T>*> a; int x = T::no; };\nint main() { A<int> a; }", "error", "",
    ),
    "includes a file of the host in Rust": (
        "rust", 'fn main() { println!("{}", include_str!("/etc/passwd")) }', "error", "No such file",
    ),
    "asks for the environment": (
        "rust", 'fn main() { println!("{}", env!("CODESCALER_SECRET")) }', "error", "CODESCALER_SECRET",
    ),
}  # fmt: skip

# Programs that say "refused" if nothing was gained.
CONTAINED = {
    "uses the network": (
        "c", """#include <stdio.h>
#include <sys/socket.h>
#include <netinet/in.h>
int main() { struct sockaddr_in a = {AF_INET, 0x1600, {0x0100007f}};
puts(connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&a, sizeof a) ? "refused" : "connected"); }""",
    ),
    "writes outside its folder": (
        "c", """#include <stdio.h>
int main() { puts(fopen("/usr/lib/a", "w") || fopen("/etc/a", "w") || fopen("/a", "w") ? "written" : "refused"); }""",
    ),
    "finds the environment of the host": (
        "c", """#include <stdio.h>
#include <string.h>
extern char **environ;
int main() { for (char **e = environ; *e; e++) if (strstr(*e, "SECRET")) puts(*e); puts("refused"); }""",
    ),
    "gains privileges": (
        "c", """#define _GNU_SOURCE
#include <stdio.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
int main() { kill(1, SIGINT); puts((!setuid(0) && !getuid()) || !unshare(CLONE_NEWUSER)
|| !mount("x", "/scratch", "tmpfs", 0, 0) || !ptrace(PTRACE_ATTACH, 1, 0, 0) ? "gained" : "refused"); }""",
    ),
    "leaves something to its next run": (
        "c", """#include <stdio.h>
#include <fcntl.h>
#include <unistd.h>
int main() { int left = !access("left", F_OK); for (int i = 3; i < 64; i++) left |= write(i, "x", 1) > 0;
close(creat("left", 0666)); int file = open("program/program", O_WRONLY | O_TRUNC); unlink("program/program");
puts(left ? "left" : "refused"); }""",
    ),
    "reads a file of the host": (
        "javascript", "try { console.log(require('fs').readFileSync('/etc/passwd', 'utf8')) }"
        " catch { console.log('refused') }",
    ),
}  # fmt: skip

# Programs that deserve no pass, and the outcomes that they may get.
WRONG = {
    "exits well": ("c", "int main() {}", {"failed"}),
    "ends before it starts": (
        "c", "#include <unistd.h>\n__attribute__((constructor)) void f() { _exit(0); }\nint main() {}", {"failed"},
    ),
    "prints for ever": ("c", "#include <stdio.h>\nint main() { for (;;) puts(\"1\"); }", {"error"}),
    "forks without end": ("c", "#include <unistd.h>\nint main() { for (int i = 0; i < 999; i++) fork(); }", {"failed"}),
    "burns time in children": (
        "c", f"""#include <stdio.h>
#include <time.h>
#include <signal.h>
#include <unistd.h>
int main() {{ int p[2]; char c; signal(SIGCHLD, SIG_IGN); pipe(p);
for (int i = 0; i < 3; i++, read(p[0], &c, 1))
if (!fork()) {{ setsid(); while (clock() < 600000); write(p[1], "x", 1); pause(); }}
puts("{SECRET}"); }}""", {"timeout"},
    ),
    "takes all memory": (
        "c", f"""#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main() {{ for (int i = 0; i < 600; i++) {{ char *p = malloc(1 << 20); if (!p) return 1; memset(p, 1, 1 << 20); }}
puts("{SECRET}"); }}""", {"error"},
    ),
    "starts threads without end": (
        "java", "class Main { public static void main(String[] a) { for (;;) { var t = new Thread(() -> "
        "{ try { Thread.sleep(60000); } catch (Exception e) {} }); t.setDaemon(true); t.start(); } } }", {"error"},
    ),
    "takes all memory outside the heap": (
        "javascript", "const a = []; for (let i = 0; i < 40; i++) a.push(Buffer.alloc(1 << 24, 1))\n"
        f"console.log('{SECRET}')", {"error"},
    ),
    "starts processes without end": (
        "javascript", "const { spawn } = require('child_process')\nfor (let i = 0; i < 100; i++)\n"
        "spawn(process.argv[0], ['-e', 'setTimeout(() => {}, 1e9)']).on('error', () => {})\n"
        "setTimeout(() => process.exit(), 100)", {"failed"},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("CODESCALER_SECRET", SECRET)


def run(sandbox, language, code, *cases, cpu_seconds=None):
    if missing := find_missing(language):
        pytest.skip(missing)
    if sandbox.user != "me" and language not in QUICK:
        pytest.skip("the compiler takes long, and the box of this user is attacked in other languages")
    return sandbox.run(code, StdioTests(cases, language=language, cpu_seconds=cpu_seconds))


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiler_reads_no_file_of_the_host_and_ends(anyones_language_sandbox, name):
    language, code, outcome, words = COMPILED[name]
    verdict = run(anyones_language_sandbox, language, code, ("", SECRET))
    assert verdict.outcomes == (outcome,), verdict
    assert words in verdict.message and len(verdict.message) <= 500
    assert "root:" not in verdict.message and SECRET not in verdict.message and "\x1b" not in verdict.message


@pytest.mark.parametrize("name", CONTAINED)
def test_a_program_is_contained(anyones_language_sandbox, name):
    verdict = run(anyones_language_sandbox, *CONTAINED[name], ("", "refused"), ("", "refused"))
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_program_does_not_pass(anyones_language_sandbox, name):
    language, code, outcomes = WRONG[name]
    cpu_seconds = LONG_S if outcomes == {"error"} else None
    verdict = run(anyones_language_sandbox, language, code, ("", SECRET), cpu_seconds=cpu_seconds)
    assert set(verdict.outcomes) <= outcomes, verdict


def test_the_box_is_as_it_was(anyones_language_sandbox):
    """After all that came before, in the same boxes."""
    verdict = run(anyones_language_sandbox, "c", LANGUAGES["c"].trial, ("", "1"))
    assert verdict.passed, verdict
