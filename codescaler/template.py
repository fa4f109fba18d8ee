"""A stranger's chat template, compiled into a sandbox in which every run is bounded.

Jinja's sandbox keeps a template away from Python's internals, but lets it loop and allocate without end. Here each step
and each value is paid for, before it is made, from a budget that grows with the messages. A budget and not a clock: a
thread cannot be stopped inside one long C call, signals reach the main thread only, and a template would then fail on a
busy machine and pass on an idle one. It holds because no single operation between two payments is large: operators,
calls, filters and output go through hooks of Jinja; for the rest (`~`, comparisons, slices, literals, loops) the syntax
tree is rewritten to pay. What cannot be bounded so (string formatting, some filters and methods) is refused by name.

This module knows no tokens and no files.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
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

MAX_TEMPLATE_CHARS = 2**17  # the longest in use take a fifth of it

# The unit is a character touched (about a nanosecond). At worst, calls of empty macros, all of it lasts two seconds.
_BASE_BUDGET, _PER_CHAR, _PER_MESSAGE = 2**25, 64, 2**16
_STEP = 32  # an operation, a node of the tree executed, an element of a container

_budget: ContextVar[list[int]] = ContextVar("_budget")

_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
_NAMES_OF: tuple[tuple[type | tuple[type, ...], frozenset[str]], ...] = (
    (str, frozenset(
        "capitalize count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric isspace isupper join "
        "lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split "
        "splitlines startswith strip title upper".split())),
    ((list, tuple), frozenset(["copy", "count", "index"])),
    (dict, frozenset(["copy", "get", "items", "keys", "values"])),
)  # fmt: skip
_FILTERS_OF_ELEMENTS = frozenset(
    "count d default first items last length list map reject rejectattr reverse select selectattr".split()
)
_FILTERS_OF_CONTENT = frozenset(
    "abs capitalize dictsort e escape float indent int join lower replace safe sort string title tojson trim unique "
    "upper wordcount".split()
)
_TESTS_OF_TYPE = frozenset(
    "boolean callable defined divisibleby even false filter float integer iterable mapping none number odd sameas "
    "sequence string test true undefined".split()
)


class _Refused(Exception):
    """The template called `raise_exception`."""


class ChatTemplate:
    """A compiled template; any number of threads may render it at once."""

    def __init__(self, source: str, where: str) -> None:
        """Compiles `source`; `where` names its file in messages.

        Raises:
            HostileFile: it is too long or not valid Jinja.
        """
        self.where = where
        if len(source) > MAX_TEMPLATE_CHARS:
            raise HostileFile(f"{where} takes {len(source)} characters, above the limit of {MAX_TEMPLATE_CHARS}.")
        with self._explained(_BASE_BUDGET):
            environment = _Environment()
            tree = _PayingTransformer().visit(environment.parse(source))
            tree.set_environment(environment)
            self._template = Template.from_code(environment, environment.compile(tree), environment.globals)

    def render(self, messages: Sequence[Mapping[str, str]], variables: Mapping[str, object]) -> str:
        """Returns the text of a conversation, without a prompt for a further turn.

        Raises:
            InvalidInput: the template itself refuses the messages.
            WeightsError: it fails; HostileFile if it does what no template may or needs more than its budget.
        """
        num_chars = sum(len(message["content"]) for message in messages)
        with self._explained(_BASE_BUDGET + _PER_CHAR * num_chars + _PER_MESSAGE * len(messages)):
            names = dict(variables, messages=messages, tools=None, documents=None, add_generation_prompt=False)
            return self._template.render(names)

    @contextmanager
    def _explained(self, budget: int) -> Iterator[None]:
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
                "mend it, or give token ids to score_tokens."
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
    total, stack = _STEP, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, range):
            total += _STEP * len(item)
        elif isinstance(item, (dict, list, tuple, *_VIEWS)):
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
def _pay_each(context: Context, values: Iterable[object], num_nodes: int = 1) -> Iterator[object]:
    for value in values:
        _spend(_STEP * num_nodes)
        yield value


class _PayingTransformer(NodeTransformer):
    """Puts payments where Jinja has no hook. A template cannot spell the names of these filters."""

    def _paid(self, node: nodes.Expr) -> nodes.Expr:
        return nodes.Filter(node, "$pay", [], [], None, None, lineno=node.lineno)

    def _pay_for_body(self, node: nodes.Macro | nodes.CallBlock | nodes.Block) -> nodes.Node:
        self.generic_visit(node)
        cost = nodes.Const(_num_nodes(node), lineno=node.lineno)
        none = nodes.Const(None, lineno=node.lineno)
        paid = nodes.Filter(none, "$pay", [cost], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(paid, lineno=node.lineno))
        return node

    visit_Macro = visit_CallBlock = visit_Block = _pay_for_body  # noqa: N815 - the visitor's naming

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise SecurityError("recursive loops are not offered to chat templates")
        cost = nodes.Const(_num_nodes(node), lineno=node.lineno)
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "$pay_each", [cost], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [self._paid(part) for part in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._paid(node.expr)
        for operand in node.ops:
            operand.expr = self._paid(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = self._paid(node.node)
        return node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        for pair in node.items:
            pair.key = self._paid(pair.key)  # hashing walks a tuple
        return self._paid(node)

    def visit_List(self, node: nodes.List | nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return node if isinstance(node, nodes.Tuple) and node.ctx != "load" else self._paid(node)

    visit_Tuple = visit_List  # noqa: N815


def _num_nodes(node: nodes.Node) -> int:
    return 1 + sum(1 for _ in node.find_all(nodes.Node))


class _Generation(Extension):
    """`{% generation %}` marks what a model wrote, for training; rendering only has to let it pass."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 types it so

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=lineno)


class _Namespace(Namespace):
    """Holds no private name, and does not print what it holds, which may be itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: N805 - an attribute may be called `self`
        Namespace.__init__(*args, **kwargs)
        if any(not isinstance(name, str) or name.startswith("_") for name in dict(*args[1:], **kwargs)):
            raise SecurityError("a namespace holds public names only")

    def __repr__(self) -> str:
        return "<Namespace>"


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up for chat templates, with payment at every hook."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_finalize
        )
        self.concat = _concat
        self.globals = {
            "range": safe_range,
            "dict": dict,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        own = {"tojson": _tojson, "join": _join_filter, "replace": _replace, "indent": _indent}
        self.filters = {name: _bounded_filter(name, own.get(name, run)) for name, run in self.filters.items()}
        self.filters |= {"$pay": _pay, "$pay_each": _pay_each}
        self.tests = {
            name: test if name in _TESTS_OF_TYPE else _paid_call(test, _weigh) for name, test in self.tests.items()
        }

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        for value, other in ((left, right), (right, left)):
            if isinstance(value, int) and value.bit_length() > 63:
                raise SecurityError("a number takes more than 63 bits")
            _spend(_weigh(value) * (max(1, other) if operator == "*" and isinstance(other, int) else 1))
        if operator == "**" and not (isinstance(right, (int, float)) and abs(right) <= 64):
            raise SecurityError("a power above 64")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("string formatting is not offered to chat templates")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        # Jinja itself passes _loop_vars and _block_vars.
        _spend(_weigh([*args, *(value for name, value in kwargs.items() if not name.startswith("_"))]))
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            name = function.__name__
            _spend(_weigh(owner) * (8 if "split" in name else 1))  # a list of words takes more than the text
            bounded = {"join": _join, "replace": _replace}.get(name)
            function = partial(bounded, owner) if bounded else function
        result = super().call(context, function, *args, **kwargs)
        _spend(_weigh(result))
        return result

    def getitem(self, obj: Any, argument: Any) -> Any:
        if not isinstance(argument, (str, int)):
            _spend(_weigh(argument))
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> None:
        """Offers no `str.format`: a width of nine digits is a gigabyte."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, names in _NAMES_OF:
            if isinstance(obj, kind):
                return attr in names
        return isinstance(obj, (Namespace, LoopContext)) and not attr.startswith("_")


def _paid_call(function: Callable[..., Any], weigh: Callable[[object], int]) -> Callable[..., Any]:
    """Returns a filter or test that pays for what it is given, and for what it yields."""

    @wraps(function)  # and with it the mark of who wants the context as its first argument
    def paid(*args: Any, **kwargs: Any) -> Any:
        _spend(sum(map(weigh, args)) + _weigh(kwargs))
        result = function(*args, **kwargs)
        if isinstance(result, Iterator):
            return (_spend(_STEP) or item for item in result)  # type: ignore[func-returns-value]
        return result

    return paid


def _bounded_filter(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    if name in _FILTERS_OF_ELEMENTS:
        return _paid_call(run, _weigh_elements)
    if name in _FILTERS_OF_CONTENT:
        return _paid_call(run, _weigh_to_sort if name in ("sort", "dictsort", "unique") else _weigh)

    def refused(*args: object, **kwargs: object) -> NoReturn:
        raise SecurityError(f"the filter {name!r} is not offered to chat templates")

    return refused


def _weigh_elements(value: object) -> int:
    return _STEP + (0 if not isinstance(value, Sized) else len(value) * _STEP)


def _weigh_to_sort(value: object) -> int:
    return 16 * _weigh(value)


def _finalize(value: object) -> object:
    _spend(_weigh(value))
    return value


def _concat(parts: Iterable[str]) -> str:
    pieces = []
    for part in parts:
        _spend(len(part))
        pieces.append(part)
    return "".join(pieces)


def _join(separator: str, parts: Iterable[str]) -> str:
    pieces = list(parts)  # a generator would be drawn up by str.join, before anyone knew its size
    _spend(_weigh(pieces) + len(separator) * len(pieces))
    return separator.join(pieces)


def _join_filter(value: Iterable[object], d: str = "", attribute: None = None) -> str:
    if attribute is not None:
        raise SecurityError("join(attribute=...) is not offered to chat templates; map first")
    values = list(value)
    _spend(_weigh(values))
    return _join(str(d), map(str, values))


def _replace(text: str, old: str, new: str, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    _spend((len(text) // max(1, len(old)) + 1) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _spend(len(text) * (width if isinstance(width, int) else len(width)))
    return do_indent(text, width, first, blank)


def _tojson(
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


def _raise_exception(message: object) -> NoReturn:
    raise _Refused(str(message))


def _strftime_now(format: str) -> str:
    if len(format) > 256:
        raise SecurityError("a date format above 256 characters")
    return datetime.now().strftime(format)
