"""Residual addition and RMSNorm in one pass over memory: one program a row."""

import triton
import triton.language as tl
from torch import Tensor

from .configurations import choose_row_warps


@triton.jit
def rms_norm_kernel(
    x,
    residual,
    weight,
    y,
    x_stride,
    residual_stride,
    y_stride,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    z = tl.load(x + row * x_stride + columns, mask, 0.0).to(tl.float32)
    if HAS_RESIDUAL:
        z += tl.load(residual + row * residual_stride + columns, mask, 0.0)
        tl.store(residual + row * residual_stride + columns, z, mask)
    inverse = tl.rsqrt(tl.sum(z * z, axis=0) / WIDTH + eps)
    tl.store(y + row * y_stride + columns, z * inverse * tl.load(weight + columns, mask, 0.0), mask)


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float, residual_TD: Tensor | None, y_TD: Tensor) -> None:
    """Writes y = z / sqrt(mean(z^2) + eps) * weight; z = x, or residual += x first and z = residual.

    Dtypes: y as x; weight and residual float32.
    """
    rows, width = x_TD.shape
    if rows == 0:
        return
    block = triton.next_power_of_2(width)
    rms_norm_kernel[(rows,)](
        x_TD,
        residual_TD,
        weight_D,
        y_TD,
        x_TD.stride(0),
        0 if residual_TD is None else residual_TD.stride(0),
        y_TD.stride(0),
        eps,
        WIDTH=width,
        BLOCK=block,
        HAS_RESIDUAL=residual_TD is not None,
        num_warps=choose_row_warps(block),
    )
