"""What one side may ask the other to do with a value of its own, by name."""

import copy
import math
import operator
from collections.abc import Callable
from typing import Any

OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, args, kwargs: target(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "contains": operator.contains,
    "len": len,
    "iter": iter,
    "next": next,
    "reversed": reversed,
    "bool": bool,
    "str": str,
    "repr": repr,
    "format": format,
    "hash": hash,
    "dir": dir,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "isinstance": lambda target, value: isinstance(value, target),
    "enter": lambda target: type(target).__enter__(target),
    "exit": lambda target, error: type(target).__exit__(
        target, None if error is None else type(error), error, None if error is None else error.__traceback__
    ),
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "invert", "abs")},
    **{name: getattr(operator, name) for name in ("index",)},
    "int": int,
    "float": float,
    "complex": complex,
    "round": round,
    "trunc": math.trunc,
    "floor": math.floor,
    "ceil": math.ceil,
}


def _add_operators() -> None:
    """Those of two operands, reversed ones, and ones in place."""
    names = (
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "matmul",
        "lshift",
        "rshift",
        "and_",
        "or_",
        "xor",
    )
    for name in names:
        function, short = getattr(operator, name), name.strip("_")
        OPERATIONS[short] = function
        OPERATIONS[f"r{short}"] = lambda target, other, function=function: function(other, target)
        OPERATIONS[f"i{short}"] = getattr(operator, f"i{short}")
    OPERATIONS["divmod"] = divmod
    OPERATIONS["rdivmod"] = lambda target, other: divmod(other, target)


_add_operators()
