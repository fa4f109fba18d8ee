"""An untrusted chat template, compiled into a sandbox in which every run is bounded.

Jinja's sandbox keeps a template away from Python's internals, but lets it loop and allocate without end. Here each step
and each value is paid for, before it is made, from a budget that grows with the messages. A budget and not a clock: a
thread cannot be stopped inside one long C call, signals reach the main thread only, and a template would then fail on a
busy machine and pass on an idle one. It holds because no single operation between two payments is large: operators,
calls, filters and output go through hooks of Jinja; for the rest (`~`, comparisons, slices, literals, loops) the syntax
tree is rewritten to pay. What cannot be bounded so (string formatting, some filters and methods) is refused by name.

This module knows no tokens and no files.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import partial, wraps
from typing import Any, NoReturn

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from codescaler.errors import CodescalerError, HostileFile, InvalidInput, WeightsError

MAX_TEMPLATE_CHARS = 2**16  # twice the longest in use

# The unit is a character touched. The worst that was found, chains of lazy filters, spends the base in 0.8 s on one
# core of an AMD EPYC, and as much again for each megabyte of messages. Templates in use spend 0.1% of it on a program.
_BASE_BUDGET, _PER_CHAR, _PER_MESSAGE = 2**25, 32, 2**16
_STEP = 32  # an operation, a node of the tree executed, an element of a container
_COMPILING = 2048  # a node of the tree: 16,000 nodes in all, where templates in use have 2,000

_budget: ContextVar[list[int]] = ContextVar("_budget")

_VIEWS: tuple[type[Collection[Any]], ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS: tuple[type[Collection[Any]], ...] = (dict, list, tuple, *_VIEWS)

# Whatever a name outside these would do, it is refused when it is reached, not when the template is loaded: templates
# have branches for tools, which scoring never takes.
_TEXT_METHODS = frozenset([
    "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal", "isdigit", "islower",
    "isnumeric", "isspace", "isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix",
    "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
    "title", "upper",
])  # fmt: skip
# Python searches from the right, and for one of many characters, in the product of both lengths.
_QUADRATIC_METHODS = frozenset(["lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"])
_METHODS: tuple[tuple[type | tuple[type, ...], frozenset[str]], ...] = (
    (str, _TEXT_METHODS),
    (dict, frozenset(["copy", "get", "items", "keys", "values"])),
    ((list, tuple), frozenset(["copy", "count", "index"])),
)
_FILTERS_OF_ELEMENTS = frozenset([
    "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject", "rejectattr", "reverse",
    "select", "selectattr",
])  # fmt: skip
_FILTERS_OF_CONTENT = frozenset([
    "abs", "capitalize", "e", "escape", "float", "indent", "int", "join", "lower", "replace", "safe", "string",
    "tojson", "trim", "upper",
])  # fmt: skip
_FILTERS_THAT_SORT = frozenset(["dictsort", "sort", "unique"])
_TESTS_OF_TYPE = frozenset([
    "boolean", "callable", "defined", "divisibleby", "even", "false", "filter", "float", "integer", "iterable",
    "mapping", "none", "number", "odd", "sameas", "sequence", "string", "test", "true", "undefined",
])  # fmt: skip


class _Refused(Exception):
    """The template called `raise_exception`."""


class ChatTemplate:
    """A compiled template; any number of threads may render it at once.

    `literals` are the texts that stand in the template itself.
    """

    def __init__(self, source: str, where: str) -> None:
        """Compiles `source`; `where` names its file in messages.

        Raises:
            HostileFile: it is too long or not valid Jinja.
        """
        self.where = where
        if len(source) > MAX_TEMPLATE_CHARS:
            raise HostileFile(f"{where} takes {len(source)} characters, above the limit of {MAX_TEMPLATE_CHARS}.")
        with self._explain_errors(_BASE_BUDGET):
            environment = _Environment()
            tree = environment.parse(source)
            _spend(_COMPILING * _count_nodes(tree))
            self.literals = _list_literals(tree)
            _PayingTransformer().visit(tree)
            tree.set_environment(environment)
            self._template = Template.from_code(environment, environment.compile(tree), environment.globals)

    def render(self, messages: Sequence[Mapping[str, str]], variables: Mapping[str, object]) -> str:
        """Returns the text of a conversation, without a prompt for a further turn.

        Raises:
            InvalidInput: the template itself refuses the messages.
            WeightsError: it fails; HostileFile if it does what no template may or needs more than its budget.
        """
        num_chars = sum(len(message["content"]) for message in messages)
        with self._explain_errors(_BASE_BUDGET + _PER_CHAR * num_chars + _PER_MESSAGE * len(messages)):
            # Copies: the caller's messages are out of reach, whatever else the sandbox lets through.
            copies = [dict(message) for message in messages]
            names = dict(variables, messages=copies, tools=None, documents=None, add_generation_prompt=False)
            return self._template.render(names)

    @contextmanager
    def _explain_errors(self, budget: int) -> Iterator[None]:
        """Gives the block a budget and turns what goes wrong in it into an error of ours."""
        token = _budget.set([budget])
        try:
            yield
        except _Refused as error:
            raise InvalidInput(f"{self.where} refuses the messages: {str(error)[:300]}") from error
        # A template can raise whatever Python can: MemoryError, RecursionError, errors of every operation.
        except Exception as error:
            is_hostile = isinstance(error, (SecurityError, TemplateSyntaxError, RecursionError, MemoryError))
            kind: type[CodescalerError] = HostileFile if is_hostile else WeightsError
            raise kind(
                f"{self.where} cannot be used as a chat template ({type(error).__name__}: {str(error)[:300]}); "
                "fix it, or give token ids to score_tokens."
            ) from error
        finally:
            _budget.reset(token)


def _spend(amount: int) -> None:
    budget = _budget.get()
    budget[0] -= amount  # stays below zero: Jinja swallows errors while it folds constants
    if budget[0] < 0:
        raise SecurityError("it takes more steps or makes more text than any chat template needs")


def _weigh(value: object) -> int:
    """Returns the characters and elements in a value, shared parts once for each mention, as printing has them."""
    if isinstance(value, str):
        return _STEP + len(value)
    total = _STEP
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, range):
            total += _STEP * len(item)
        elif isinstance(item, _CONTAINERS):
            total += _STEP * len(item)
            if total > _budget.get()[0]:
                break  # small in memory, endless when walked: lists that hold one list many times
            stack.extend(item)
            if isinstance(item, dict):
                stack.extend(item.values())
    return total


@pass_context  # also keeps Jinja from folding it away as a constant
def _pay(context: Context, value: object, num_nodes: int = 0) -> object:
    _spend(_STEP * num_nodes + _weigh(value))
    return value


@pass_context
def _pay_each(context: Context, values: Iterable[object], num_nodes: int) -> Iterator[object]:
    return _iterate(values, _STEP * num_nodes)


def _iterate(values: Iterable[object], cost: int) -> Iterator[object]:
    for value in values:
        _spend(cost)
        yield value


class _PayingTransformer(NodeTransformer):
    """Puts payments where Jinja has no hook, as filters whose names a template cannot spell."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node, nodes.For):
            if node.recursive:
                raise SecurityError("recursive loops are not offered to chat templates")
            node.iter = _filter(node.iter, "$pay_each", _count_nodes(node))
        elif isinstance(node, (nodes.Macro, nodes.CallBlock, nodes.Block)):
            paid = _filter(nodes.Const(None, lineno=node.lineno), "$pay", _count_nodes(node))
            node.body.insert(0, nodes.ExprStmt(paid, lineno=node.lineno))
        elif isinstance(node, nodes.Concat):
            node.nodes = [_filter(part, "$pay") for part in node.nodes]
        elif isinstance(node, (nodes.Compare, nodes.Operand)):
            node.expr = _filter(node.expr, "$pay")
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            node.node = _filter(node.node, "$pay")
        elif isinstance(node, nodes.Pair):
            node.key = _filter(node.key, "$pay")  # hashing walks a tuple
        elif isinstance(node, (nodes.List, nodes.Dict)) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
            return _filter(node, "$pay")
        return node


def _filter(node: nodes.Node, name: str, num_nodes: int = 0) -> nodes.Filter:
    args: list[nodes.Expr] = [nodes.Const(num_nodes, lineno=node.lineno)]
    return nodes.Filter(node, name, args, [], None, None, lineno=node.lineno)


def _count_nodes(node: nodes.Node) -> int:
    return 1 + sum(1 for _ in node.find_all(nodes.Node))


def _list_literals(tree: nodes.Template) -> frozenset[str]:
    constants = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return frozenset(constants | {node.data for node in tree.find_all(nodes.TemplateData)})


class _Generation(Extension):
    """`{% generation %}` marks what a model wrote, for training; rendering only has to let it pass."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 types it so

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


class _Namespace(Namespace):
    """Holds no private name, and does not print what it holds, which may be itself."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise SecurityError(f"a namespace holds public names only, not {name!r}")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up for chat templates, with payment at every hook."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_finalize
        )
        self.globals = {
            "range": safe_range,
            "dict": dict,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _format_now,
        }
        filters: dict[str, Callable[..., Any]] = self.filters | _OWN_FILTERS
        self.filters = {name: _make_bounded_filter(name, run) for name, run in filters.items()}
        self.filters |= {"$pay": _pay, "$pay_each": _pay_each}
        tests = {name: test for name, test in self.tests.items() if name not in _TESTS_OF_TYPE}
        self.tests |= {name: _make_paid_call(test, _weigh) for name, test in tests.items()}

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Joins what a template, a macro or a block puts out."""
        pieces = []
        for part in parts:
            _spend(len(part))
            pieces.append(part)
        return "".join(pieces)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        for value, other in ((left, right), (right, left)):
            if isinstance(value, int) and value.bit_length() > 63:
                raise SecurityError("a number takes more than 63 bits")
            is_repeated = operator == "*" and isinstance(other, int) and not isinstance(value, (int, float))
            _spend(_weigh(value) * (max(1, other) if is_repeated else 1))
        if operator == "**" and not (isinstance(right, (int, float)) and abs(right) <= 64):
            raise SecurityError("a power above 64")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("string formatting is not offered to chat templates")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        given = [value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")]  # Jinja's own
        _spend(_weigh([*args, given]))
        owner = getattr(target, "__self__", None)
        if isinstance(owner, (list, tuple)):
            _spend(_weigh(owner))
        elif isinstance(owner, str):
            name = target.__name__
            _spend(_weigh(owner) * (8 if "split" in name else 1))  # a list of words takes more than the text
            if name in _QUADRATIC_METHODS:
                _spend(len(owner) * sum(len(text) for text in args if isinstance(text, str)))
            if name in _BOUNDED_METHODS:
                target = partial(_BOUNDED_METHODS[name], owner)
        result = super().call(context, target, *args, **kwargs)
        _spend(_weigh(result))
        return result

    def getitem(self, obj: Any, argument: Any) -> Any:
        if not isinstance(argument, (str, int)):
            _spend(_weigh(argument))
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> None:
        """Offers no `str.format`: a width of nine digits is a gigabyte."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, names in _METHODS:
            if isinstance(obj, kind):
                return attr in names
        return isinstance(obj, (Namespace, LoopContext)) and not attr.startswith("_")


def _make_paid_call(function: Any, weigh: Callable[[object], int]) -> Callable[..., Any]:
    """Returns a filter or test that pays for what it is given, and for what it yields."""

    @wraps(function)  # and with it the mark of who wants the context as its first argument
    def call_paid(*args: Any, **kwargs: Any) -> Any:
        _spend(sum(map(weigh, args)) + _weigh(kwargs))
        result = function(*args, **kwargs)
        if isinstance(result, Iterator):
            return _iterate(result, _STEP)
        if isinstance(result, str):
            _spend(len(result))
        return result

    return call_paid


def _make_bounded_filter(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    if name in _FILTERS_OF_ELEMENTS:
        return _make_paid_call(run, _weigh_elements)
    if name in _FILTERS_OF_CONTENT:
        return _make_paid_call(run, _weigh)
    if name in _FILTERS_THAT_SORT:
        return _make_paid_call(run, lambda value: 16 * _weigh(value))

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise SecurityError(f"the filter {name!r} is not offered to chat templates")

    return refuse


def _weigh_elements(value: Any) -> int:
    has_length = isinstance(value, (range, *_CONTAINERS))
    return _STEP * len(value) if has_length else _weigh(value)


def _finalize(value: object) -> object:
    _spend(_weigh(value))
    return value


def _join(separator: str, parts: Iterable[str]) -> str:
    pieces = list(parts)  # a generator would be drawn up by str.join, before anyone knew its size
    _spend(_weigh(pieces) + len(separator) * len(pieces))
    return separator.join(pieces)


def _replace(text: str, old: str, new: str, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    _spend((len(text) // max(1, len(old)) + 1) * len(new))
    return text.replace(old, new, -1 if count is None else count)


_BOUNDED_METHODS: dict[str, Callable[..., str]] = {"join": _join, "replace": _replace}


def _join_filter(value: Iterable[object], d: str = "", attribute: None = None) -> str:
    if attribute is not None:
        raise SecurityError("join(attribute=...) is not offered to chat templates; map first")
    values = list(value)
    _spend(_weigh(values))
    return _join(str(d), map(str, values))


def _trim(value: object, chars: str | None = None) -> str:
    text = str(value)
    _spend(len(text) * len(chars or ""))
    return text.strip(chars)


def _list(value: Iterable[object]) -> list[object]:
    if isinstance(value, str):
        _spend(_STEP * len(value))
    return list(value)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = str(text)  # do_indent adds to a list in place: it would change the caller's messages
    _spend(len(text) * (width if isinstance(width, int) else len(width)))
    return do_indent(text, width, first, blank)


def _dump_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers' templates get it: no HTML escapes."""
    if not (indent is None or (isinstance(indent, int) and indent <= 8)) or len("".join(separators or ())) > 8:
        raise SecurityError("tojson with an indent or separators above 8 characters")
    _spend(8 * _weigh(value))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


_OWN_FILTERS: dict[str, Callable[..., Any]] = {
    "indent": _indent,
    "join": _join_filter,
    "list": _list,
    "replace": _replace,
    "tojson": _dump_json,
    "trim": _trim,
}


def _raise_exception(message: object) -> NoReturn:
    raise _Refused(str(message))


def _format_now(format: str) -> str:
    if len(format) > 256:
        raise SecurityError("a date format above 256 characters")
    return datetime.now().strftime(format)
