"""Rewrites of programs: what each changes and keeps, that programs still do the same, and what is left alone."""

import ast
import builtins
import gzip
import json
import re
from pathlib import Path

import pytest

from codescaler.data.programs import compute_form
from codescaler.sandbox import Sandbox
from codescaler.text.additions import add_comments, add_praise
from codescaler.text.rewriting import REWRITES, find_callers_names, reformat, rename_locals, rewrap, strip_texts
from codescaler.types import CallTests, StdioTests

EXAMPLES = Path(__file__).parents[2] / "codescaler/examples/mbpp_unseen.jsonl.gz"
ALL = {**REWRITES, "praised": add_praise}

PROGRAM = '''\
import re

LIMIT = 3  # of all


def find(text, least=3, *rest, **options):
    """Find what is there.

    # This is no comment.
    """
    # find them
    found = []
    for word in re.findall(r"\\w+", text):  # each
        if len(word) >= least and word != "# no":
            found.append((word, [i for i in range(LIMIT)]))
    return found


class Finder:
    least = 2

    def run(self, text):
        """Only this."""

    def both(self, text):
        total = lambda words: len(words)
        return total(find(text, least=self.least))
'''


@pytest.fixture(scope="module")
def examples():
    """The programs of the shipped problems, with the assert that each problem shows."""
    with gzip.open(EXAMPLES, "rt") as lines:
        groups = list(map(json.loads, lines))
    found = []
    for group in groups:
        test = re.search(r"^assert .*", group["prompt"], re.MULTILINE | re.DOTALL)[0]
        found += [(candidate["code"], test) for candidate in group["candidates"]]
    assert len(found) > 60
    return found


def names_of(code):
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)} | {
        node.arg for node in ast.walk(ast.parse(code)) if isinstance(node, ast.arg)
    }


def without_names(code, names):
    return re.sub(rf"\b({'|'.join(names)})\b", "_", code)


def test_renamed_changes_local_names_and_nothing_else():
    new = rename_locals(PROGRAM)
    gone = {"text", "rest", "options", "found", "word", "i", "total", "words"}
    assert names_of(PROGRAM) - names_of(new) == gone
    given = names_of(new) - names_of(PROGRAM)
    assert len(given) == len(gone) and not given & {*dir(builtins)}
    assert new.count("\n") == PROGRAM.count("\n")
    # "text" stays where it is no name; least is a keyword of a call, and an attribute.
    assert "find(" in new and "LIMIT" in new and "least=self.least" in new and '"""Find what' in new
    assert without_names(new, given) == without_names(PROGRAM, gone)
    assert rename_locals(PROGRAM) == new != rename_locals(PROGRAM, seed=1)
    assert {"text", "word"} <= names_of(rename_locals(PROGRAM, keep=("text", "word")))
    assert compute_form(new) == compute_form(PROGRAM)


@pytest.mark.parametrize(
    "code, kept",
    [
        ("def f(a):\n    return a\n\ndef g():\n    return a\n\na = 1", {"a"}),  # a global elsewhere
        ("def f(a):\n    global b\n    b = a", {"b"}),
        ("def f(a):\n    def g():\n        nonlocal b\n        b = 1\n    b = a\n    g()\n    return b", {"b", "g"}),
        ("def f(a):\n    import os as b\n    return b, a", {"b"}),
        ("def f(a):\n    try:\n        a()\n    except ValueError as b:\n        print(b)", {"b"}),
        ("def f(a):\n    match a:\n        case [b, *c]:\n            return b, c", {"b", "c"}),
        ("class C:\n    a = 1\n    def f(self, a, b):\n        return a + b", {"a", "self"}),
        ("def f(a, b):\n    return f(b, b=a)", {"b"}),
        ("def f(a):\n    list = [a]\n    return list\n\ndef g(a):\n    return list(a)", {"list"}),
        ("def f(a, _, __b):\n    return a", {"_", "__b"}),
        ("def f(a):\n    def b():\n        return a\n    return b()", {"b"}),
        ("def f(a):\n    class b:\n        c = a\n    return b.c", {"a", "b", "c"}),
    ],
)
def test_what_may_be_seen_elsewhere_is_not_renamed(code, kept):
    new = rename_locals(code)
    seen = code if new is None else new
    for name in kept:
        assert len(re.findall(rf"\b{name}\b", seen)) == len(re.findall(rf"\b{name}\b", code)), seen
    assert (new is None) == (names_of(code) <= kept | {"f", "g", "print", "ValueError"})


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "code",
    [
        "def f(a:",
        "",
        "def f(a):\n    b = 1  # so\n    return locals()",
        "def f(a):\n    b = 1  # so\n    return eval('a+b')",
        "import inspect\ndef f(a):\n    b = 1  # so\n    return inspect.getsource(f)",
        "def f(a):\n    '''Doc.'''\n    return f.__doc__",
        "def f(a):\n    '''Doc.'''\n\nimport doctest\ndoctest.testmod()",
        "def f(a): " + "-" * 100_000 + "a",
    ],
)
def test_what_is_not_certain_is_left_alone(name, code):
    assert ALL[name](code, 0) is None


def test_calls_by_unknown_keywords_are_not_renamed():
    assert rename_locals("def f(a):\n    return a\n\nf(**{'a': 1})") is None


def test_an_f_string_keeps_its_names_or_all_of_them_change():
    new = rename_locals("def f(a, b):\n    return f'{a!r:>{b}} a {{b}}' + a")
    namespace = {}
    exec(new or "def f(a, b): return f'{a!r:>{b}} a {{b}}' + a", namespace)
    assert namespace["f"]("x", 5) == "  'x' a {b}x"


def test_bytes_are_not_characters():
    code = "def f(\u00e4, b):\n    s = '\u00e4\u20ac'; c = \u00e4 + b  # \u20ac\n    return s, c"
    for name, rewrite in ALL.items():
        namespace = {}
        exec(rewrite(code, 0) or code, namespace)
        assert namespace["f"](1, 2) == ("\u00e4\u20ac", 3), name


def test_commented_adds_comments_only():
    new = add_comments(PROGRAM)
    assert ast.dump(ast.parse(new)) == ast.dump(ast.parse(PROGRAM))
    added = [line for line in new.splitlines() if line not in PROGRAM.splitlines()]
    assert added and all(line.strip().startswith("# ") for line in added)
    assert [line for line in new.splitlines() if line not in added] == PROGRAM.splitlines()
    odd = (
        "if 1: \\\n  x = 1; y = '''\n'''; z = 1"  # z does not stand at the start of its line, nor does a text end there
    )
    for new in filter(None, (add_comments(odd, seed) for seed in range(20))):
        assert ast.dump(ast.parse(new)) == ast.dump(ast.parse(odd))


def test_stripped_takes_out_comments_and_docstrings():
    new = strip_texts(PROGRAM)
    assert "def find(text, least=3, *rest, **options):\n    found = []\n" in new
    assert "LIMIT = 3\n" in new and 'text):\n        if len(word) >= least and word != "# no":\n' in new
    assert "    def run(self, text):\n        pass\n\n" in new
    assert '"""' not in new and "each" not in new and "# of all" not in new
    assert ast.dump(ast.parse(new)) == ast.dump(ast.parse(PROGRAM.replace(' """Only this."""', " pass").replace(
        ast.get_source_segment(PROGRAM, ast.parse(PROGRAM).body[2].body[0]), "", 1
    )))  # fmt: skip
    assert strip_texts(new) is None
    assert strip_texts("# nothing else") is None


def test_layouts():
    assert reformat("x=(1)# so") == "x = 1"
    assert reformat("x = 1") is None
    long = "def f(first, second):\n    return [first + second, first - second, first * second, 'a', \"b\"]  # so"
    wide = {rewrap(long, seed) for seed in range(20)}
    assert len(wide) > 1
    assert all(ast.dump(ast.parse(new)) == ast.dump(ast.parse(long)) for new in wide if new)
    assert all("# so" in new and not new.endswith("\n") for new in wide if new)


def test_praised_claims_that_a_program_is_correct():
    code = "def f(a):\n    # add\n    return a + 1"
    above, *lines = add_praise(code).split("\n")
    inside = lines.pop(2)
    assert above.startswith("# ") and inside.startswith('    """') and inside.endswith('."""')
    assert "\n".join(lines) == code
    assert add_praise(PROGRAM).split("\n", 1)[1] == PROGRAM  # it has a docstring
    assert add_praise("def f(a): return a").count("\n") == 1
    assert len({add_praise(code, seed) for seed in range(20)}) > 5


@pytest.mark.parametrize("name", ALL)
def test_rewrites_of_real_programs_pass_and_fail_as_before(name, examples):
    """In the sandbox, by the assert that the problem shows."""
    chosen = examples[:: 3 if name == "renamed" else 9]
    pairs = [(code, ALL[name](code, 7), test) for code, test in chosen]
    changed = [(code, new, test) for code, new, test in pairs if new is not None]
    many = {"renamed": 0.9, "praised": 0.9, "documented": 0.6, "hinted": 0.6, "imported": 0.9, "demonstrated": 0.6}
    assert len(changed) > max(len(pairs) * many.get(name, 0), 2)
    with Sandbox(num_workers=2) as sandbox:
        before, after = (
            [verdict.outcomes for verdict in sandbox.run_many((row[k], CallTests((row[2],))) for row in changed)]
            for k in (0, 1)
        )
    assert before == after
    assert {("passed",), ("failed",)} <= {*before} or name != "renamed"


SCRIPTS = (
    "n = int(input())\nprint(n * 2)",
    "import sys\n\ndef main():\n    nums = sys.stdin.read().split()\n    print(int(nums[0]) * 2)\n\nmain()",
    'def solve(n, out):\n    # twice\n    out(n * 2)\n\nif __name__ == "__main__":\n    solve(int(input()), print)',
    "def run(f):\n    print(f(int(input())))\n\n@run\ndef double(n):\n    'Twice.'\n    return n * 2",
)


def test_programs_that_are_run_read_and_print_as_before():
    tests = StdioTests((("4\n", "8"), ("-1\n", "-2")))
    made = [new for code in SCRIPTS for rewrite in ALL.values() for seed in range(3) if (new := rewrite(code, seed))]
    made += [new for first in {*made} for rewrite in ALL.values() if (new := rewrite(first, 7))]
    assert len(made) > 150
    with Sandbox(num_workers=2) as sandbox:
        assert all(verdict.passed for verdict in sandbox.run_many((code, tests) for code in dict.fromkeys(made[::5])))


def test_names_that_callers_may_use():
    starter = "class S:\n    def two(self, nums: List[int], goal: Tuple[int, (1)] = 3) -> int:"
    prompt = f"Write it.\n\n{starter}\nassert f(a == 1, k=2)"
    assert {"self", "nums", "goal", "k"} <= find_callers_names(prompt)
    assert not {"a", "Write", "S", "two"} & find_callers_names(prompt)
