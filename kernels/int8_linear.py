"""int8 linear layers: a program quantises each row, and the product is of integers, so its bits are the reference's."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configurations import LinearConfiguration, choose_row_warps
from .launch import Kernel, round_up_to_power
from .scaled_product import multiply_scaled

# Added and taken away again, it rounds a float32 number below 2^22 to an integer, halves to the even one.
_ROUNDER = tl.constexpr(12582912.0)


@triton.jit
def _add_and_subtract(x, HALF: tl.constexpr):
    """(first, second) -> (first + second, first - second), on the halves of each `2 HALF` numbers."""
    first, second = tl.split(tl.permute(tl.reshape(x, [x.shape[0] // (2 * HALF), 2, HALF]), [0, 2, 1]))
    return tl.reshape(tl.permute(tl.join(first + second, first - second), [0, 2, 1]), [x.shape[0]])


@Kernel
def int8_rows_kernel(
    x,
    q,
    low,
    scales,
    x_stride,
    q_stride,
    num_steps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_HADAMARD: tl.constexpr,
    HAS_LOW: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    z = tl.load(x + row * x_stride + column, mask, 0.0).to(tl.float32)
    if HAS_HADAMARD:  # in the reference's order of sums
        z = _add_and_subtract(_add_and_subtract(_add_and_subtract(z, 32), 16), 8)
        z = _add_and_subtract(_add_and_subtract(_add_and_subtract(z, 4), 2), 1) * 0.125
    size = tl.max(tl.abs(z), axis=0)
    is_finite = tl.min((tl.abs(z) < float("inf")).to(tl.int32), axis=0) == 1
    is_zero = size < 2.0**-100
    inverse = tl.where(is_zero, 0.0, tl.div_rn(num_steps, size))
    integer = tl.where(is_finite, tl.minimum(tl.maximum(z * inverse, -num_steps), num_steps), 0.0)
    integer = (integer + _ROUNDER - _ROUNDER).to(tl.int32)
    if HAS_LOW:
        tl.store(low + row * q_stride + column, ((integer & 255) - 128).to(tl.int8), mask)
        integer = integer >> 8
    tl.store(q + row * q_stride + column, integer.to(tl.int8), mask)
    scale = tl.where(is_zero, 1.0, tl.div_rn(size, num_steps))
    tl.store(scales + row, tl.where(is_finite, scale, float("nan")))


def int8_linear(
    x_TI: Tensor,
    weight_OI: Tensor,
    weight_sums_O: Tensor,
    scale_O: Tensor,
    bias_O: Tensor | None,
    y_TO: Tensor,
    num_steps: int,
    configuration: LinearConfiguration,
    *,
    has_hadamard: bool,
) -> None:
    """Writes y = s scale (q W^T) + b, q = round(x / s), s = max |x| / num_steps over a row; above 127, q has 16 bits.

    With `has_hadamard` each 64 inputs go through a Hadamard transform first. A row with a value that is not finite is
    NaN. Dtypes: weight int8, its rows' sums int32, scale and bias float32; y as x.
    """
    rows, width = x_TI.shape
    if rows == 0:
        return
    has_low, block = num_steps > 127, max(round_up_to_power(width), 64)
    q_TI = x_TI.new_empty(rows, width, dtype=torch.int8)
    low_TI = torch.empty_like(q_TI) if has_low else None
    scale_T = x_TI.new_empty(rows, dtype=torch.float32)
    int8_rows_kernel[(rows,)](
        x_TI,
        q_TI,
        low_TI,
        scale_T,
        x_TI.stride(0),
        q_TI.stride(0),
        float(num_steps),
        WIDTH=width,
        BLOCK=block,
        HAS_HADAMARD=has_hadamard,
        HAS_LOW=has_low,
        num_warps=choose_row_warps(block),
        enable_fp_fusion=False,  # so that the rounding is of the product
    )
    multiply_scaled(
        q_TI, weight_OI, scale_T, scale_O, bias_O, y_TO, configuration, low_TI=low_TI, weight_sums_O=weight_sums_O
    )
