import re
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codescaler.errors import InvalidInput
from codescaler.text import extract
from codescaler.text.extract import (
    LANGUAGES,
    MAX_CODE_CHARS,
    describe_syntax_error,
    extract_evaluation_code,
    extract_training_code,
    is_valid_code,
)

ONE = "Here it is:\n```python\nx = 1\n```\nDone."
TWO = "```python\nx = 1\n```\nor\n```python\nx = 2\n```"


@pytest.mark.parametrize(
    "completion, training, evaluation",
    [
        (ONE, "x = 1", "x = 1"),
        (TWO, None, "x = 2"),
        ("no block at all", None, None),
        ("x = 1", None, None),
        ("```\n  x = 1  \n\n```", "x = 1", "x = 1"),
        ("```py\nx =\n```", None, "x ="),
        ("```python\n```", "", ""),
        ("```python\nx = 1", None, None),
        ("```python x = 1```", None, None),
        ("``` \nx = 1\n```", None, None),
        ("```python\r\nx = 1\r\n```", None, None),
        ("````python\nx = 1\n````", "x = 1", "x = 1"),
        ("```python\nx = '```'\n```", None, "x = '"),
        ("", None, None),
    ],
)
def test_examples(completion, training, evaluation):
    assert extract_training_code(completion) == training
    assert extract_evaluation_code(completion) == evaluation


@pytest.mark.parametrize(
    "code, is_valid",
    [
        ("", True),
        ("# only a comment", True),
        ("def f(:", False),
        ("return 1", True),  # ast.parse does not look further than syntax
        ("x = '\\d'", True),
        ("x = 1\0", False),
        ("x = '\ud800'", False),
        ("1" * 60_000, True),  # whatever the limit of digits that this Python has
        ("x = 1\n" * 5000, True),
        ("#" * MAX_CODE_CHARS, True),
        ("#" * (MAX_CODE_CHARS + 1), False),
    ],
)
def test_python_verdicts(code, is_valid):
    assert is_valid_code(code) == is_valid


def test_warnings_do_not_leak():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert is_valid_code("x = '\\d' is 1")
    assert not caught


DEEP = {
    "brackets": "(" * 30_000 + ")" * 30_000,
    "lists": "[" * 60_000,
    "attributes": "x" + ".a" * 32_000,
    "unary": "-" * 65_000 + "1",
    "not": "not " * 16_000 + "x",
    "sum": "1" + "+1" * 32_000,
    "calls": "f" + "()" * 32_000,
    "lambdas": "lambda:" * 9_000 + "0",
    "indents": "".join(" " * i + "if x:\n" for i in range(300)),
    "f-strings": 'f"{' * 9_000,
    "backslashes": "\\\n" * 30_000,
    "megabytes": "x = 1\n" * 1_000_000,
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_and_long_programs_get_a_verdict(name):
    """On a thread of the default stack size, where a recursion in C would end the process."""
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(is_valid_code(DEEP[name])))
    start = time.perf_counter()
    thread.start()
    thread.join()
    assert len(verdicts) == 1
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("unit", ["`", "```", "```\n", "```a\n", "```a\n`", "``\n", "a```", "\n```x"])
def test_extraction_takes_linear_time(unit):
    text = unit * (2_000_000 // len(unit))
    start = time.perf_counter()
    extract_training_code(text)
    extract_evaluation_code(text)
    assert time.perf_counter() - start < 10  # a tenth of a second where this was written


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet=st.sampled_from("`\n\r a1=(:\"'\\\0\ud800é"), max_size=60))
def test_any_text_gets_a_verdict(text):
    training, evaluation = extract_training_code(text), extract_evaluation_code(text)
    assert training is None or training == evaluation
    assert training is None or is_valid_code(training)
    for language in LANGUAGES:
        assert isinstance(is_valid_code(text, language), bool)


PROGRAMS = {
    "python": "import sys\n\ndef add(x, y=(1, 2)):\n    return [x, *y]",
    "c": """#include <stdio.h>
#define LIMIT 10
struct pair { int x, *y; };
static int (*choose(int n))(int) { return n ? &abs : NULL; }
int main(void) { for (int i = 0; i < LIMIT; i++) printf("%d\\n", (int)sizeof(struct pair)); }""",
    "cpp": """#include <bits/stdc++.h>
#define all(x) (x).begin(), (x).end()
template <class T> T sum(const std::vector<std::vector<T>>& v) { T s{}; for (auto& [a, b] : v) s += a < b; return s; }
int main() { auto f = [&](auto&& x) -> bool { return x > 1 && x < 3; }; std::cin >> n; sort(all(v), f); }""",
    "go": """package main
import "fmt"
type Pair[T any] struct { X, Y T }
func (p *Pair[T]) Swap() (T, error) { p.X, p.Y = p.Y, p.X; return p.X, nil }
func main() { c := make(chan int); go func() { c <- 1 }(); fmt.Println(<-c, []int{1, 2}[:1]) }""",
    "java": """import java.util.*;
record Point(int x, int y) {}
class Solution<T extends Comparable<T>> {
    Map<String, List<T>> m = new HashMap<>();
    int f(Object o) { return switch (o) { case Point(int x, var y) when x < y -> x; default -> 0; }; }
}""",
    "javascript": """class A { #x = 1; get x() { return this.#x ?? `${1 + 1}`; } static *f({ a, ...b }) { yield* a; } }
const add = (x, y = [1]) => ({ x, [y]: /[/]/g.test(x) });
(a, b)""",
    "rust": """use std::{collections::HashMap, fmt};
impl<'a, T: Clone + 'a> Pair<'a, T> { fn get(&self) -> Option<&'a T> { self.0.iter().map(|x| x)?.next() } }
fn main() { let Some(x) = f::<u8>(1..=2) else { return }; match x { 0 | 1 => println!("{x:?}"), _ => {} } }""",
    "typescript": """type Keys<T> = { readonly [K in keyof T]?: T[K] extends (infer U)[] ? U : never };
abstract class A<T> implements B<T> { constructor(private x: number, public y?: Map<string, T[]>) {} }
export const f = async <T,>(x: T): Promise<T> => x as const satisfies T;""",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language(language):
    code = PROGRAMS[language]
    assert extract_training_code(f"```{language}\n{code}\n```", language) == code
    assert is_valid_code("", language)
    comment = "#" if language == "python" else "//"
    assert is_valid_code(f"{code}\n{comment} 中 😀", language)
    assert is_valid_code(f"{code}\n".ljust(MAX_CODE_CHARS), language)
    for wrong in [
        code[: code.rindex(")")],
        code.replace("(", "((", 1),
        code + "}",
        "Here is the program:\n" + code,
        "def f(x) return x",
        f"{code}\0",
        "/*\0*/",
        f"{code}\n{comment} \ud800",
        f"{code}\n".ljust(MAX_CODE_CHARS + 1),
    ]:
        assert not is_valid_code(wrong, language), wrong


def test_a_preprocessor_line_may_be_the_last():
    assert extract_training_code("```c\nint x;\n#define A\n```", "c") == "int x;\n#define A"


# Unwatched, each of the first six takes gigabytes or minutes in some language.
HOSTILE = ["x=>", "<-", "a<", "a /*b / ", "/[", 'r#"', "(", "{", "\\\n"]
CHILD = """
import resource
from codescaler.text.extract import is_valid_code
resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for unit in {units!r}:
    assert is_valid_code(unit * (65_000 // len(unit)) + ")", {language!r}) is False, unit
"""


@pytest.mark.parametrize(
    "language", [name if name == "cpp" else pytest.param(name, marks=pytest.mark.slow) for name in LANGUAGES[1:]]
)
def test_hostile_text_takes_neither_gigabytes_nor_minutes(language):
    """In a process that may have half a gigabyte and a minute for what takes a few seconds where this was written."""
    subprocess.run([sys.executable, "-c", CHILD.format(units=HOSTILE, language=language)], check=True)


def test_the_bound_on_ambiguity_is_the_same_on_busy_threads():
    """Up to its end, a list of names may be a pattern to assign to: both readings are followed, four steps a name."""
    codes = [f"x = [{'a, ' * n}a];" for n in (1, 1000, 1990, 1995, 2000, 2010)]
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda _: [is_valid_code(code, "javascript") for code in codes], range(4)))
    assert verdicts == [verdicts[0]] * 4
    assert verdicts[0] == sorted(verdicts[0], reverse=True)
    assert verdicts[0][1] and not verdicts[0][-1]


def test_an_unknown_language_is_an_error():
    for call in (is_valid_code, extract_training_code):
        with pytest.raises(InvalidInput, match="'cobol' is not known; use one of python, c, cpp, go, java"):
            call("no block", "cobol")


@pytest.mark.parametrize("missing", ["tree_sitter", "tree_sitter_rust"])
def test_a_missing_grammar_is_an_error_that_says_what_to_install(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    extract._make_syntax_check.cache_clear()
    with pytest.raises(InvalidInput, match=re.escape("pip install 'codescaler[languages]'")):
        is_valid_code("fn f() {}", "rust")
    assert is_valid_code("x = 1")


@pytest.mark.parametrize(
    "code, said",
    [
        ("x = 1", None),
        ("x = 1\ny = (", "line 2: '(' was never closed"),
        ("x" * (MAX_CODE_CHARS + 1), f"it has {MAX_CODE_CHARS + 1} characters, and at most {MAX_CODE_CHARS} are read"),
        ("1" * 5000, None),
        ("1" * 5000 + "\n)", "line 2: unmatched ')'"),
        ("x = '\ud800'", "surrogates not allowed"),
        ("-" * 60_000 + "1", ""),
        ("\0", "null bytes"),
    ],
)
def test_where_a_program_does_not_parse(code, said):
    found = describe_syntax_error(code)
    assert (found is None) == is_valid_code(code)
    assert said is None or said in found
