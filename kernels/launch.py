"""Launches of Triton kernels, for a fraction of the time that Triton's own take the host.

`triton.jit` binds and classifies each argument anew, and asks the driver about every pointer. Here the kernel that
Triton compiled is found by what it depends on, and is given addresses in place of tensors.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import triton
from torch import Tensor
from triton.runtime.jit import JITFunction


class Kernel:
    """A Triton function: `kernel[grid](*arguments, **constants)` launches it, as that of `triton.jit` would.

    Arguments come in order, and constants and options by name, all of them in each launch and in one order. `options`
    are those of `triton.jit`. Functions that kernels call have `triton.jit` itself.
    """

    def __init__(self, function: Callable[..., None], **options: Any) -> None:
        functools.update_wrapper(self, function)
        self._function = triton.jit(function, **options)
        # In place of each constant: it is compiled in, and yet counted among the arguments.
        parameters = inspect.signature(function).parameters.values()
        self._blanks = [None for parameter in parameters if parameter.annotation is triton.language.constexpr]
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        if isinstance(self._function, JITFunction):
            return functools.partial(self._launch, grid)
        interpreted: Callable[..., None] = self._function[grid]
        return interpreted

    def _launch(self, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        # All that Triton compiles for: constants, dtypes, and which addresses and integers are multiples of 16.
        key: list[Any] = [triton.runtime.driver.active.get_current_device(), *constants.values()]
        values: list[Any] = []
        for argument in arguments:
            value = argument
            if isinstance(argument, int):
                key.append((argument % 16 == 0, argument == 1, argument.bit_length() >> 5))
            elif isinstance(argument, Tensor):
                value = argument.data_ptr()
                key += (argument.dtype, value % 16 == 0)
            elif argument is None or isinstance(argument, float):
                key.append(argument is None)
            else:  # a tensor descriptor
                key += (argument.base.dtype, *argument.block_shape)
            values.append(value)
        found = tuple(key)
        compiled = self._compiled.get(found)
        if compiled is not None:
            compiled[(*grid, 1, 1)[:3]](*values, *self._blanks)
            return
        # Multiplications and additions are fused unless a launch says otherwise: Triton 3.10 has another default.
        compiled = self._function[grid](*arguments, **{"enable_fp_fusion": True} | constants)
        if compiled is not None:
            self._compiled[found] = compiled


def divide_up(count: int, size: int) -> int:
    """How many blocks of a size hold so many. That of Triton takes ten times as long."""
    return -(-count // size)


def round_up_to_power(count: int) -> int:
    """The least power of two that is not less than `count`, which is 1 or more."""
    return 1 << (count - 1).bit_length()
