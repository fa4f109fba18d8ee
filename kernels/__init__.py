"""Triton kernels, installed as `codescaler.kernels`: one file an operation, under the name it has in `ops.reference`.

Each file holds a kernel and the function that launches it on tensors. They know torch and Triton, and of codescaler
the fields of the records that a launch is given (`ops.spec`): `ops.triton` alone calls them. Activations are float32,
bfloat16 or float16; arithmetic is float32.
Shape suffixes as in `ops.backend`. The last dimension of every tensor is contiguous; rows may lie apart.
"""

import functools

import triton  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

VERSION: str = triton.__version__


def get_architecture() -> str:
    """What kernels are compiled for here: "sm_90", "gfx942", ..., or "interpreter" where TRITON_INTERPRET is set."""
    if triton.knobs.runtime.interpret:
        return "interpreter"
    target = triton.runtime.driver.active.get_current_target()
    return f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch).partition(":")[0]


def count_processors() -> int:
    """Multiprocessors of the current device; under the interpreter a few, so that a program has several tiles."""
    if triton.knobs.runtime.interpret:
        return 3
    return _count_processors(triton.runtime.driver.active.get_current_device())


@functools.cache  # to ask the driver takes 2 ms (H200), as long as eighty launches
def _count_processors(device: int) -> int:
    count: int = triton.runtime.driver.active.utils.get_device_properties(device)["multiprocessor_count"]
    return count


def is_aligned(tensor: Tensor) -> bool:
    """Whether a tensor descriptor can describe it: rows start at multiples of 16 bytes."""
    return tensor.data_ptr() % 16 == 0 and tensor.stride(0) * tensor.element_size() % 16 == 0
