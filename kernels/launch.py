"""Launches of Triton kernels, for a fraction of the time that Triton's own take the host.

`triton.jit` binds and classifies each argument anew, and asks the driver about every pointer. Here the kernel that
Triton compiled is found by what it depends on, and is given addresses in place of tensors.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction


class Kernel:
    """A Triton function: `kernel[grid](*arguments, **constants)` launches it, as that of `triton.jit` would.

    The grid is a tuple. Arguments come in order, then constants and options by name. `options` are those of
    `triton.jit`, which functions that kernels call have themselves. Settings of Triton that change after a first launch
    change nothing.
    """

    def __init__(self, function: Callable[..., None], **options: Any) -> None:
        functools.update_wrapper(self, function)
        self._function = triton.jit(function, **options)
        # AMD's kernels depend on the size of what a pointer leads to as well.
        self._is_ours = isinstance(self._function, JITFunction) and torch.version.hip is None
        self._compiled: dict[tuple[Any, ...], Any] = {}
        is_constant = [parameter.is_constexpr for parameter in self._function.params] if self._is_ours else []
        assert is_constant == sorted(is_constant), "constants come last"
        self._blanks = [None] * sum(is_constant)  # a compiled kernel takes a value for each, and ignores it

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return functools.partial(self._launch if self._is_ours else self.launch_by_triton, grid)

    def launch_by_triton(self, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> Any:
        """Returns the compiled kernel, or None where nothing is compiled.

        Multiplications and additions are fused unless a launch says otherwise: Triton 3.10 has another default.
        """
        return self._function[grid](*arguments, **{"enable_fp_fusion": True} | constants)

    def _launch(self, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        # What Triton compiles for: constants, dtypes, and of addresses and integers which are multiples of 16; of
        # integers also which are 1, and which have more than 32 bits.
        key: list[Any] = [triton.runtime.driver.active.get_current_device(), *constants, *constants.values()]
        values: list[Any] = []
        for argument in arguments:
            value = argument
            if isinstance(argument, int):
                key.append((argument % 16 == 0, argument == 1, argument.bit_length() >> 5))
            elif isinstance(argument, Tensor):
                value = argument.data_ptr()
                # Triton refuses one of the CPU's memory, so that no compiled kernel is found for it.
                key += (argument.dtype, value % 16 == 0, argument.is_cpu)
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
        compiled = self.launch_by_triton(grid, *arguments, **constants)
        if compiled is not None:
            self._compiled[found] = compiled


def divide_up(count: int, size: int) -> int:
    """How many blocks of a size hold so many. `triton.cdiv` takes ten times as long."""
    return -(-count // size)


def round_up_to_power(count: int) -> int:
    """The least power of two that is not less than `count`, which is 1 or more."""
    return 1 << (count - 1).bit_length()
