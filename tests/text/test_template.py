"""Templates that hold to the rules render as in transformers; all others end soon, in an error that says why."""

import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from codescaler.errors import HostileFile, InvalidInput, WeightsError
from codescaler.text import template
from codescaler.text.template import MAX_TEMPLATE_CHARS, ChatTemplate

TEMPLATES = sorted((Path(__file__).parent / "templates").glob("*.jinja"))
FAMILIES = [path for path in TEMPLATES if path.stem != "every_feature"]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
PROGRAM = [
    {"role": "user", "content": "Add two numbers.\n"},
    {"role": "assistant", "content": "def add(a, b):\n    return a + b\n"},
]


def render(source, messages=PROGRAM, variables=TOKENS):
    return ChatTemplate(source, "x.jinja").render(messages, variables)


def as_transformers_renders(source, messages=PROGRAM, variables=TOKENS):
    return render_jinja_template([messages], chat_template=source, **variables)[0][0]


CONVERSATIONS = {
    "program": PROGRAM,
    "empty": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}],
    "reasoning": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nfirst"},
        {"role": "user", "content": "<tool_response>x</tool_response>"},
        {"role": "assistant", "content": "<think>\nhm, again\n</think>\n\nx = 1"},
    ],
    "marks": [{"role": "user", "content": "<|im_end|> {{ 7 * 7 }} {%"}, {"role": "assistant", "content": "<b>&'"}],
    "long": [{"role": role, "content": f" {n} é\r\n\0 "} for n in range(20) for role in ("user", "assistant")],
}


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_renders_as_transformers_does(path, messages):
    source = path.read_text()
    assert render(source, messages) == as_transformers_renders(source, messages)


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_a_template_in_use_is_far_from_its_budget(path, monkeypatch):
    for name, factor in {"_BASE_BUDGET": 100, "_COMPILING": 100, "_PER_MESSAGE": 2, "_PER_CHAR": 2}.items():
        monkeypatch.setattr(template, name, getattr(template, name) // factor)
    chat = ChatTemplate(path.read_text(), "x.jinja")
    for num_turns, num_chars in ((1, 10), (1, 10**6), (500, 2000)):
        chat.render([{"role": role, "content": "x" * num_chars} for role in ("user", "assistant")] * num_turns, TOKENS)


MANY = "range(99999)"
LOOP = "{% for i in " + MANY + " %}"
LOOPS = f"{LOOP}{LOOP}BODY{{% endfor %}}{{% endfor %}}"


def grown(step, start="'ab'", end="{{ n.s }}", times=60):
    return f"{{% set n = namespace(s={start}) %}}{{% for i in range({times}) %}}{step}{{% endfor %}}{end}"


ENDLESS = {
    "empty loops": LOOPS.replace("BODY", LOOP + "{% endfor %}"),
    "filtered loops": "{% for a in R if a < 0 %}{% endfor %}".replace("R", MANY) * 100,
    "a long body of cheap nodes": LOOPS.replace("BODY", "{% set x = a %}" * 1000),
    "macros": "{% macro f() %}{% endmacro %}" + LOOPS.replace("BODY", "{% set x = f() %}"),
    "a macro's long body": "{% macro f() %}" + "{% if a %}b{% endif %}" * 500 + "{% endmacro %}"
    + LOOPS.replace("BODY", "{% set x = f() %}"),
    "a tree of macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "lazy filters": LOOP + "{% set x = 0.5 in " + MANY + "|map('string')|map('length')|select('odd') %}{% endfor %}",
    "comparisons": "{% set s = 'a' * 4000000 %}{% set t = 'a' * 4000000 %}" + LOOP + "{{ s == t }}{% endfor %}",
    "searches": "{% set s = 'a' * 400000 %}{% set t = 'a' * 9999 + 'b' %}" + LOOP + "{{ t in s }}{% endfor %}",
    "slices": "{% set s = 'a' * 4000000 %}" + LOOP + "{% set t = s[1:] %}{% endfor %}",
    "methods": "{% set s = 'a' * 4000000 %}" + LOOP + "{% set t = s.find('b') %}{% endfor %}",
    "searches from the right": "{{ ('a' * 4000000).rfind('b' + 'a' * 9999) }}",
    "strip": "{{ ('a' * 4000000).strip('b' * 9999 + 'a') }}",
    "trim": "{{ ('a' * 4000000)|trim('b' * 9999 + 'a') }}",
    "search of a list": LOOP + "{{ (['a' * 99999] * 99).count('a' * 99999 ~ 'b') }}{% endfor %}",
    "sorting": "{% set s = 'a' * 200000 %}{{ ([s] * 100 + [s ~ 'b'])|sort }}",
    "output": LOOPS.replace("BODY", "a" * 100),
    "captured output": "{% set x %}" + LOOPS.replace("BODY", "a" * 100) + "{% endset %}",
    "string * number": "{{ 'a' * 10**9 }}",
    "number * string": "{{ 1000000000 * 'a' }}",
    "list * number": "{{ ([1] * 10**9)|length }}",
    "doubling by +": grown("{% set n.s = n.s + n.s %}"),
    "doubling by ~": grown("{% set n.s = n.s ~ n.s %}"),
    "doubling by output": grown("{% set t %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = t %}"),
    "doubling by replace": grown("{% set n.s = n.s.replace('a', n.s) %}"),
    "doubling by a filter": grown("{% set n.s = n.s|replace('a', n.s) %}"),
    "doubling by join": grown("{% set n.s = n.s.join([n.s, n.s, n.s]) %}"),
    "doubling by escape": grown("{% set n.s = n.s|e ~ '' %}", "'<' * 1000", times=999),
    "list in a list": grown("{% set n.s = [n.s, n.s] %}", "[1]"),
    "tuple in a tuple": grown("{% set n.s = (n.s, n.s) %}", "(1,)", "{{ {n.s: 1} }}"),
    "dict in a dict": grown("{% set n.s = {'a': n.s, 'b': n.s} %}", "[1]"),
    "dict() in a dict": grown("{% set n.s = dict(a=n.s, b=n.s) %}", "[1]"),
    "varargs": "{% macro f(n) %}{% if n %}{{ f(n - 1, varargs, varargs) }}{% endif %}{% endmacro %}{{ f(60, 1) }}",
    "loop.changed": grown("{% set n.s = [n.s, n.s] %}{{ loop.changed(n.s) }}", "[1]"),
    "deep tuples": grown("{% set n.s = (n.s,) %}", "(1,)", "{{ {n.s: 1} }}", times=99999),
    "join of many": "{% set s = 'a' * 99999 %}{{ s.join(" + MANY + "|map('string')) }}",
    "join filter of many": "{% set s = 'a' * 99999 %}{{ " + MANY + "|join(s) }}",
    "split": "{{ ('a ' * 4000000).split() }}",
    "list of characters": "{{ ('a' * 4000000)|list }}",
    "indent": "{{ 'a\nb'|indent(1000000000) }}",
    "autoescape": "{% autoescape true %}" + grown("{% set t %}{{ n.s }}<{{ n.s|string }}{% endset %}{% set n.s = t %}")
    + "{% endautoescape %}",
    "constants": "{{ 'aaaa'" + "|replace('', 'bbbbbbbb')" * 60 + " }}",
    "a great syntax tree": "{{ 1" + "~1" * 30000 + " }}",
}  # fmt: skip

REFUSED = {
    "attributes": "{{ ''.__class__.__mro__ }}",
    "attributes by item": "{{ ''['__class__'].x }}",
    "attr": "{{ ''|attr('__class__') }}",
    "subclasses": "{{ ().__class__.__base__.__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__.x }}",
    "self": "{{ self.__init__.__globals__ }}",
    "a loop's inside": "{% for i in [1] %}{{ loop._recurse.x }}{% endfor %}",
    "private names": "{% set n = namespace() %}{% set n.__call__ = 1 %}",
    "change of a list": "{{ messages.append(1) }}",
    "change of a message": "{{ messages[0].update({'content': ''}) }}",
    "center": "{{ 'a'.center(10**9) }}",
    "center filter": "{{ 'a'|center(1000000000) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format by item": "{{ ''['format'](1) }}",
    "format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "format operator": "{{ '%1000000000d' % 1 }}",
    "great powers": "{{ 9 ** (9 ** 9) }}",
    "great numbers": grown("{% set n.s = n.s * n.s %}", "9"),
    "numbers from text": "{{ ('f' * 99999)|int(base=16) // 7 }}",
    "json indent": "{{ [[1]]|tojson(indent=100000000) }}",
    "json separators": "{{ [1, 2]|tojson(separators=('a' * 99, ':')) }}",
    "date": "{{ strftime_now('%Y' * 1000) }}",
    "recursive loops": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "syntax": "{% for %}",
    "an open string": "{{ 'a",
    "brackets": "{{ " + "[" * 9999 + "]" * 9999 + " }}",
    "signs": "{{ " + "-" * 9999 + "1 }}",
    "nested ifs": "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "an unknown filter": "{{ 1|launch }}",
    "length": "a" * (MAX_TEMPLATE_CHARS + 1),
}  # fmt: skip

FAILING = {
    "range": "{{ range(10**9) }}",
    "include": "{% include 'x' %}",
    "import": "{% import 'os' as os %}",
    "lipsum": "{{ lipsum() }}",
    "undefined": "{{ nothing.x }}",
    "types": "{{ 1 + 'a' }}",
    "division": "{{ 1 / 0 }}",
    "nested loops": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
}


def peak_memory():
    """The most bytes that this process has held at a time. Tests before this one may have held many."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def on_a_thread(function):
    """Runs a function off the main thread, where no signal arrives, and returns its error."""
    errors = []

    def run():
        try:
            function()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return errors[0] if errors else None


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_what_has_no_end_is_ended(source):
    threads, start, before = threading.active_count(), time.monotonic(), peak_memory()
    error = on_a_thread(lambda: render(source))
    assert isinstance(error, HostileFile)
    assert "x.jinja" in str(error) and "more steps or makes more text" in str(error)
    assert time.monotonic() - start < 8  # about 1 s at most; this is for a machine that does other things too
    assert threading.active_count() == threads
    assert peak_memory() - before < 2 * 2**30


@pytest.mark.parametrize("source", REFUSED.values(), ids=REFUSED)
def test_what_no_template_may_do_is_refused(source):
    with pytest.raises(HostileFile, match=r"x\.jinja"):
        render(source)


@pytest.mark.parametrize("source", FAILING.values(), ids=FAILING)
def test_what_fails_says_so(source):
    with pytest.raises(WeightsError, match=r"x\.jinja cannot be used .*fix it"):
        render(source)


def test_threads_share_a_template_but_no_budget():
    chat = ChatTemplate("{% for i in range(60000) %}{{ messages[0].content }}{% endfor %}", "x.jinja")
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda n: chat.render([{"role": "user", "content": str(n)}], {}), range(8)))
    assert texts == [str(n) * 60000 for n in range(8)]


def test_budget_grows_with_the_messages():
    source = "{% for i in range(60000) %}{{ i }}{% endfor %}"
    with pytest.raises(HostileFile):
        render(LOOPS.replace("BODY", ""), PROGRAM)
    assert render(source, [{"role": "user", "content": "a" * 10**6}]).startswith("012")


def test_a_template_may_refuse_messages():
    with pytest.raises(InvalidInput, match=r"x\.jinja refuses the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_no_template_changes_the_messages():
    """Jinja's own indent would: it adds a line end to its argument in place."""
    messages = [dict(message) for message in PROGRAM]
    render("{% set x = messages|indent %}{% set x = messages[0]|string|indent %}", messages)
    assert messages == PROGRAM


def test_a_namespace_prints_nothing_it_holds():
    assert render("{% set n = namespace() %}{% set n.a = n %}{{ n }}{{ [n] }}") == "<Namespace>[<Namespace>]"


def test_every_name_of_jinja_has_been_judged():
    """A filter or test that a new Jinja brings is refused, or pays, until somebody has read it."""
    environment = template._Environment()
    allowed = template._FILTERS_OF_ELEMENTS | template._FILTERS_OF_CONTENT | template._FILTERS_THAT_SORT
    assert allowed <= environment.filters.keys()
    assert environment.tests.keys() >= template._TESTS_OF_TYPE
    plain = jinja2.Environment()
    unpaid = {name for name, test in environment.tests.items() if test is plain.tests.get(name)}
    assert unpaid == template._TESTS_OF_TYPE


def test_what_a_template_says_reaches_no_terminal():
    """Neither in the error, nor in the errors before it that a traceback shows."""
    for source in ("{{ raise_exception('\x1b[2J') }}", "{{ '\x1b[2J' + 1 }}", "{{ x['\x1b[2J'].y }}", "{% \x1b[2J %}"):
        with pytest.raises((InvalidInput, WeightsError)) as refusal:
            render(source)
        assert "\x1b" not in str(refusal.value) and refusal.value.__suppress_context__
