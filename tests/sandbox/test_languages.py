"""Programs in other languages than Python: what they print, how they end, and what is said where a tool is missing."""

import pytest

from codescaler.errors import SandboxUnavailable
from codescaler.sandbox import Sandbox, languages
from codescaler.sandbox.languages import LANGUAGES, find_toolchain
from codescaler.text import extract
from codescaler.types import StdioTests

from .conftest import LANGUAGE_LIMITS, find_missing

# A program that doubles a number, ends with status 3 if it is 3, and never ends if it is 4.
DOUBLE = {
    "c": """#include <stdio.h>
int main() { int n; scanf("%d", &n); if (n == 3) return 3; for (; n == 4;); printf("%d\\n", 2 * n); }""",
    "cpp": """#include <iostream>
using namespace std;
int main() { int n; cin >> n; if (n == 3) exit(3); while (n == 4); cout << 2 * n << endl; }""",
    "go": """package main
import ("fmt"; "os")
func main() { var n int; fmt.Scan(&n); if n == 3 { os.Exit(3) }; for n == 4 {}; fmt.Println(2 * n) }""",
    "java": """import java.util.*;
public class Doubling { public static void main(String[] a) {
int n = new Scanner(System.in).nextInt(); if (n == 3) System.exit(3); while (n == 4); System.out.println(2 * n); } }""",
    "javascript": """const n = Number(require("fs").readFileSync(0, "utf8"))
if (n === 3) process.exit(3); while (n === 4); console.log(2 * n)""",
    "rust": """use std::io;
fn main() { let mut s = String::new(); io::stdin().read_line(&mut s).unwrap(); let n: i32 = s.trim().parse().unwrap();
if n == 3 { std::process::exit(3) } while n == 4 {} println!("{}", 2 * n); }""",
}

# A function, a test program that calls it, and how the function is wrong.
HARNESSES = {
    "c": ("int f(int a) { return 2 * a; }", "#include <assert.h>\nint main() { assert(f(4) == 8); }", "2 *", "3 *"),
    "cpp": ("int f(int a) { return 2 * a; }", "#include <cassert>\nint main() { assert(f(4) == 8); }", "2 *", "3 *"),
    "go": (
        'import "testing"\nfunc f(a int) int { return 2 * a }',
        "func TestF(t *testing.T) { if f(4) != 8 { t.Fail() } }",
        "2 *",
        "3 *",
    ),
    "java": (
        "class Solution { int f(int a) { return 2 * a; } }",
        "public class Main { public static void main(String[] a) { assert new Solution().f(4) == 8; } }",
        "2 *",
        "3 *",
    ),
    "javascript": ("const f = a => 2 * a", "require('assert')(f(4) === 8)", "2 *", "3 *"),
    "rust": (
        "fn f(a: i32) -> i32 { 2 * a }\nfn main() {}",
        "#[cfg(test)] mod tests { use super::*; #[test] fn test() { assert_eq!(f(4), 8); } }",
        "2 *",
        "3 *",
    ),
}
PRELUDES = {"go": "package main"}


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request):
    require(request.param)
    return request.param


def require(language):
    if missing := find_missing(language):
        pytest.skip(missing)


def test_each_language_has_a_syntax_check_of_its_name():
    assert set(LANGUAGES) < set(extract.LANGUAGES)
    assert set(DOUBLE) == set(HARNESSES) == set(LANGUAGES)


def test_a_program_is_judged_by_what_it_prints(language_sandbox, language):
    tests = StdioTests((("21\n", "42\n"), ("21\n", "43\n"), ("3\n", "6\n")), language=language)
    verdict = language_sandbox.run(DOUBLE[language], tests)
    assert verdict.outcomes == ("passed", "failed", "error"), verdict
    assert verdict.message == r"printed '42\n', not '43\n'"
    assert verdict.cpu_seconds > 0 and not verdict.is_forgeable


@pytest.mark.parametrize("name", ["c", "java"])
def test_a_program_that_never_ends_is_a_time_out(language_sandbox, name):
    require(name)
    tests = StdioTests((("4\n", "8\n"), ("2\n", "4\n")), language=name)
    verdict = language_sandbox.run(DOUBLE[name], tests)
    assert verdict.outcomes == ("timeout", "timeout") and "CPU time" in verdict.message


@pytest.mark.parametrize("language", ["c", "java", "javascript", "rust"])
def test_a_program_that_does_not_compile_is_an_error_in_the_compilers_words(language_sandbox, language):
    require(language)
    code = f"{DOUBLE[language]}\n \x1b[31m (((\n"
    verdict = language_sandbox.run(code, StdioTests((("21\n", "42\n"), ("1", "2")), language=language))
    assert verdict.outcomes == ("error", "error")
    assert "program." in verdict.message or "Doubling.java" in verdict.message
    assert "\x1b" not in verdict.message and len(verdict.message) <= 500


def test_a_test_program_decides_by_its_exit_status(language_sandbox, language):
    function, harness, right, wrong = HARNESSES[language]
    tests = StdioTests((("", ""),), PRELUDES.get(language, ""), language=language, harness=harness)
    verdict = language_sandbox.run(function, tests)
    assert verdict.passed and verdict.is_forgeable, verdict
    verdict = language_sandbox.run(function.replace(right, wrong), tests)
    assert verdict.outcomes == ("failed",) and verdict.is_forgeable, verdict


def test_a_test_program_in_the_programs_process_takes_an_option(language_sandbox):
    function, harness, *_ = HARNESSES["c"]
    tests = StdioTests((("", ""),), language="c", harness=harness)
    with Sandbox(LANGUAGE_LIMITS, num_workers=1) as sandbox:
        verdict = sandbox.run(function, tests)
    assert verdict.passed is None and "allow_one_process" in verdict.message
    python = StdioTests((("", ""),), harness="assert f(4) == 8")
    assert language_sandbox.run("def f(a): return 2 * a", python).passed
    assert language_sandbox.run("def f(a): return 3 * a", python).outcomes == ("failed",)


def test_files_may_stand_for_the_streams(language_sandbox):
    require("c")
    code = """#include <stdio.h>
int main() { int n; FILE *in = fopen("in.txt", "r"), *out = fopen("out.txt", "w"); fscanf(in, "%d", &n);
fprintf(out, "%d", 2 * n); return n == 3; }"""
    tests = StdioTests((("21", "42"), ("3", "6")), input_file="in.txt", output_file="out.txt", language="c")
    assert language_sandbox.run(code, tests).outcomes == ("passed", "error")


def test_a_missing_tool_is_named_with_what_to_install(monkeypatch):
    find_toolchain.cache_clear()
    monkeypatch.setattr(languages.shutil, "which", lambda tool: None)
    with Sandbox(LANGUAGE_LIMITS, num_workers=1) as sandbox:
        for language in LANGUAGES:
            with pytest.raises(SandboxUnavailable, match=f"'{language}'.*not on the path; install"):
                sandbox.run("", StdioTests((("", ""),), language=language))
        with pytest.raises(SandboxUnavailable, match=r"'typescript' are not judged.*python, or one of c, cpp"):
            sandbox.run("", StdioTests((("", ""),), language="typescript"))


def test_a_tool_that_does_not_work_is_named_too(monkeypatch):
    require("c")
    broken = {"c": LANGUAGES["c"].__class__(**{**vars(LANGUAGES["c"]), "trial": "int main() { return 7; }"})}
    monkeypatch.setattr(languages, "LANGUAGES", broken)
    find_toolchain.cache_clear()
    with (
        Sandbox(LANGUAGE_LIMITS, num_workers=1) as sandbox,
        pytest.raises(SandboxUnavailable, match=r"'c' cannot be judged.*exit code 7"),
    ):
        sandbox.require_language("c")
    find_toolchain.cache_clear()


@pytest.mark.parametrize(
    ("text", "main", "public"),
    [
        ("class A {} class B { static void main(String[] a) {} }", "B", "B"),
        ("public class A { static class B { void main() {} } public static void main(String[] a) {} }", "A", "A"),
        ("class S { public static class N {} }\npublic final class M { static void main(String... a) {} }", "M", "M"),
        ('// public class X {\nclass A { String s = "class Y { void main("; /* } */ void main() {} }', "A", "A"),
        ("package a.b; public class A { public static void main(String[] a) {} }", "a.b.A", "A"),
        ("public class P {} class Q { public static void main(String[] a) {} }", "Q", "P"),
        ("int x", "Main", "Main"),
    ],
)  # fmt: skip
def test_the_main_class_of_a_java_program_is_found(text, main, public):
    assert languages._find_classes(text) == (main, public)
