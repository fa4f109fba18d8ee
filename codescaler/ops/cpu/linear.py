"""Plain linear layers on CPUs: oneDNN's product on weights reordered once, through torch's private calls."""

import functools
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from codescaler.errors import BackendUnavailable
from codescaler.ops.linear import PLAIN, LinearWeights, PlainFormat

# oneDNN picks other kernels for a few rows than for many, and those sum in another order (seen at M = 1, K = 3072
# and 4864); from this many rows on, every row count gives a row the same bits.
MIN_LINEAR_ROWS = 16
MOST_SIZES_TRIED = 64  # for one that keeps bits


@functools.cache  # on first use, not at import: it computes, so it belongs on the thread of the caller
def has_packed_linear(dtype: torch.dtype) -> bool:
    """Whether torch's private oneDNN calls are here, take this dtype on this CPU, and compute what they should."""
    try:
        x, weight = torch.ones(MIN_LINEAR_ROWS, 32, dtype=dtype), torch.ones(16, 32, dtype=dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        return bool((torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "") == 32.0).all())
    except (AttributeError, RuntimeError):
        return False


@functools.cache
def may_split_inputs(dtype: torch.dtype) -> bool:
    """Whether oneDNN may share the inputs of an output among threads, and add up their sums in another order.

    It may with AMX tiles and few rows (`amx_blocking_heuristics.cpp` of oneDNN; seen on 16 threads, over 1,024 inputs).
    Where torch does not say whether there are tiles, there may be.
    """
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    return dtype == torch.bfloat16 and bool(has_tiles())


def describe_linear() -> str:
    """Says in which dtypes products are oneDNN's on packed weights."""
    names = [str(t).removeprefix("torch.") for t in (torch.float32, torch.bfloat16) if has_packed_linear(t)]
    return f"packed oneDNN linear for {' and '.join(names)}" if names else "no packed linear"


def pad_rows(rows: int) -> int:
    """Returns the number of rows that a product of `rows` rows runs over.

    oneDNN compiles and keeps a kernel for every number of rows it meets, 0.6 MB each (AVX2, oneDNN of torch 2.13), and
    the heap in between is lost to larger results: 10,000 programs took 0.5 GB more at their end than at their start.
    So there are few numbers, further apart where a row more is a smaller share.
    """
    step = MIN_LINEAR_ROWS if rows <= 128 else 64 if rows <= 512 else 128
    return max(-(-rows // step) * step, MIN_LINEAR_ROWS)


class OneDnnLinear:
    """A copy of a plain weight, in oneDNN's own layout where torch's private calls are here, and its bias."""

    # (inputs, outputs, rows, threads) -> whether a row has the bits there that it has on one thread.
    _kept_bits: ClassVar[dict[tuple[int, ...], bool]] = {}

    def __init__(self, weights: LinearWeights, _: PlainFormat) -> None:
        weight = weights.weight.contiguous()
        (self.num_outputs, self.num_inputs), self.dtype = weight.shape, weight.dtype
        self.is_packed = has_packed_linear(weight.dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.is_packed else weight.clone()
        self.bias = weights.bias

    def __call__(self, x: Tensor) -> Tensor:
        rows = len(x)
        missing = self.find_rows(rows, pad_rows) - rows
        if missing:
            x = torch.nn.functional.pad(x, (0, 0, 0, missing))
        return self.multiply(x)[:rows]

    def find_rows(self, rows: int, pad: Callable[[int], int]) -> int:
        """Returns how many rows a product runs over: `pad(rows)`, or the next such number that keeps a row's bits.

        Raises:
            BackendUnavailable: none does on so many threads.
        """
        count = pad(rows)
        if not may_split_inputs(self.dtype):
            return count
        for _ in range(MOST_SIZES_TRIED):
            if self._has_kept_bits(count):
                return count
            count = pad(count + 1)
        raise BackendUnavailable(
            f"a product of {self.num_inputs} inputs on {torch.get_num_threads()} threads has other bits than on one "
            f"thread, for every number of rows from {rows} to {count}; use num_threads=1, or dtype='float32'"
        )

    def _has_kept_bits(self, rows: int) -> bool:
        threads = torch.get_num_threads()
        key = (self.num_inputs, self.num_outputs, rows, threads)
        if key not in self._kept_bits:
            self._kept_bits[key] = threads == 1 or self._try_rows(rows, threads)
        return self._kept_bits[key]

    def _try_rows(self, rows: int, threads: int) -> bool:
        """Whether rows have the bits that they have on one thread, for operands whose sums would be 0 if none rounded.

        So what is left of a sum is its order, and rounding to bfloat16 hides none of it.
        """
        random = torch.Generator().manual_seed(0)
        half, odd = divmod(self.num_inputs, 2)
        weight, x = (torch.randn(count, half, generator=random) for count in (self.num_outputs, MIN_LINEAR_ROWS))
        layer = type(self)(LinearWeights(torch.cat([weight, weight, weight[:, :odd]], 1).to(self.dtype)), PLAIN)
        x = torch.cat([x, -x, torch.zeros(len(x), odd)], 1).to(self.dtype)
        many = layer.multiply(x.repeat(rows // MIN_LINEAR_ROWS, 1)).view(-1, MIN_LINEAR_ROWS, self.num_outputs)
        torch.set_num_threads(1)
        try:
            return bool((many == layer.multiply(x)).all())
        finally:
            torch.set_num_threads(threads)

    def multiply(self, x: Tensor) -> Tensor:
        """Y = x W^T + b. A row has its bits for numbers of rows that `find_rows` returns."""
        if self.is_packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return y
        return torch.nn.functional.linear(x, self.weight, self.bias)
