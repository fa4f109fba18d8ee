"""Memory of large results that is used again.

The C library gives large blocks back to the system when they are freed. Each is then got anew with a page fault for
every 4 KiB, and a layer frees several. On a virtual machine that took up to a tenth of a forward.
"""

import math
import weakref
from collections import defaultdict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_LEAST_BYTES = 2**20  # smaller results come from the C library, which keeps such blocks
_ALIGNMENT = 64  # of torch's own memory, and of a cache line


class BlockPool:
    """Blocks that results lay in before, by size. A block comes back when no tensor shares its memory any more.

    Sizes are powers of two, so that batches of other lengths find blocks too: pages that no result touches take no
    memory. The pool keeps what was in use at one time.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[npt.NDArray[np.uint8]]] = defaultdict(list)

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor with any content."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes < _LEAST_BYTES:
            return torch.empty(shape, dtype=dtype)
        size = 1 << (num_bytes - 1).bit_length()
        free = self._free[size]
        try:
            block = free.pop()
        except IndexError:  # asked first, another thread could be faster
            block = _make_block(size)
        lent = block[:num_bytes]
        weakref.finalize(lent, free.append, block).atexit = False
        return torch.from_numpy(lent).view(dtype).view(shape)


def _make_block(num_bytes: int) -> npt.NDArray[np.uint8]:
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)  # in huge pages where numpy gets them
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes]
