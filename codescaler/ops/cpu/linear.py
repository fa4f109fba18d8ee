"""Plain linear layers on CPUs: oneDNN's product on weights reordered once, through torch's private calls."""

import functools

import torch
from torch import Tensor

from codescaler.ops.linear import LinearWeights, PlainFormat

# oneDNN picks other kernels for a few rows than for many, and those sum in another order (seen at M = 1, K = 3072
# and 4864); from this many rows on, every row count gives a row the same bits.
MIN_LINEAR_ROWS = 16


@functools.cache  # on first use, not at import: it computes, so it belongs on the thread of the caller
def has_packed_linear(dtype: torch.dtype) -> bool:
    """Whether torch's private oneDNN calls are here, take this dtype on this CPU, and compute what they should."""
    try:
        x, weight = torch.ones(MIN_LINEAR_ROWS, 32, dtype=dtype), torch.ones(16, 32, dtype=dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        return bool((torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "") == 32.0).all())
    except (AttributeError, RuntimeError):
        return False


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

    def __init__(self, weights: LinearWeights, _: PlainFormat) -> None:
        weight = weights.weight.contiguous()
        self.is_packed = has_packed_linear(weight.dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.is_packed else weight.clone()
        self.bias = weights.bias

    def __call__(self, x: Tensor) -> Tensor:
        rows = len(x)
        missing = pad_rows(rows) - rows
        if missing:
            x = torch.nn.functional.pad(x, (0, 0, 0, missing))
        return self.multiply(x)[:rows]

    def multiply(self, x: Tensor) -> Tensor:
        """Y = x W^T + b. Of fewer than `MIN_LINEAR_ROWS` rows, bits depend on their number."""
        if self.is_packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return y
        return torch.nn.functional.linear(x, self.weight, self.bias)
