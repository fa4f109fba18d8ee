"""fp8 linear layers (e4m3): a program rounds each row to fp8 with a scale of its own, and tensor cores multiply fp8."""

import torch
import triton.language as tl
from torch import Tensor

from .configurations import LinearConfiguration, choose_row_warps
from .launch import Kernel, round_up_to_power
from .scaled_product import multiply_scaled

LARGEST = 448.0  # that e4m3 holds


@Kernel
def fp8_rows_kernel(x, q, scales, x_stride, q_stride, largest, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    z = tl.load(x + row * x_stride + column, mask, 0.0).to(tl.float32)
    size = tl.max(tl.abs(z), axis=0)
    is_finite = tl.min((tl.abs(z) < float("inf")).to(tl.int32), axis=0) == 1
    is_zero = size < 2.0**-100
    z = tl.where(is_finite, z * tl.where(is_zero, 0.0, tl.div_rn(largest, size)), 0.0)
    z = tl.minimum(tl.maximum(z, -largest), largest)
    tl.store(q + row * q_stride + column, z.to(tl.float8e4nv), mask)
    tl.store(scales + row, tl.where(is_finite, tl.where(is_zero, 1.0, tl.div_rn(size, largest)), float("nan")))


def fp8_linear(
    x_TI: Tensor,
    weight_OI: Tensor,
    scale_O: Tensor,
    bias_O: Tensor | None,
    y_TO: Tensor,
    configuration: LinearConfiguration,
) -> None:
    """Writes y = s scale (q W^T) + b, q = fp8(x / s), s = max |x| / 448 over a row.

    A row with a value that is not finite is NaN. Dtypes: weight float8_e4m3fn, scale and bias float32; y as x.
    """
    rows, width = x_TI.shape
    if rows == 0:
        return
    block = round_up_to_power(width)
    q_TI = x_TI.new_empty(rows, width, dtype=torch.float8_e4m3fn)
    scale_T = x_TI.new_empty(rows, dtype=torch.float32)
    fp8_rows_kernel[(rows,)](
        x_TI,
        q_TI,
        scale_T,
        x_TI.stride(0),
        q_TI.stride(0),
        LARGEST,
        WIDTH=width,
        BLOCK=block,
        num_warps=choose_row_warps(block),
    )
    multiply_scaled(q_TI, weight_OI, scale_T, scale_O, bias_O, y_TO, configuration)
