"""Residual addition and RMSNorm in one pass over memory: one program a row. The gradient: one program some rows."""

import torch
import triton.language as tl
from torch import Tensor

from .configurations import choose_row_warps
from .launch import Kernel, divide_up, round_up_to_power

ROWS_OF_A_SUM = 8  # whose gradients of the weight one program adds up, in order: part of the numbers


@Kernel
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
    block = round_up_to_power(width)
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


@Kernel
def rms_norm_backward_kernel(
    z,
    weight,
    grad_y,
    grad_residual,
    grad_z,
    grad_weight,
    z_stride,
    grad_y_stride,
    grad_residual_stride,
    grad_z_stride,
    num_rows,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    scale = tl.load(weight + columns, mask, 0.0)
    first = tl.program_id(0).to(tl.int64) * ROWS
    total = tl.zeros([BLOCK], tl.float32)
    for row in range(first, tl.minimum(first + ROWS, num_rows)):
        x = tl.load(z + row * z_stride + columns, mask, 0.0)
        grad = tl.load(grad_y + row * grad_y_stride + columns, mask, 0.0).to(tl.float32)
        inverse = tl.rsqrt(tl.sum(x * x, axis=0) / WIDTH + eps)
        x *= inverse
        total += grad * x
        grad *= scale
        result = (grad - x * (tl.sum(grad * x, axis=0) / WIDTH)) * inverse
        if HAS_RESIDUAL:
            result += tl.load(grad_residual + row * grad_residual_stride + columns, mask, 0.0)
        tl.store(grad_z + row * grad_z_stride + columns, result, mask)
    tl.store(grad_weight + tl.program_id(0) * WIDTH + columns, total, mask)


def rms_norm_backward(
    z_TD: Tensor, weight_D: Tensor, eps: float, grad_y_TD: Tensor, grad_residual_TD: Tensor | None, grad_z_TD: Tensor
) -> Tensor:
    """Writes the gradient by z, and returns the gradient by the weight.

    With x = z / r, r = sqrt(mean(z^2) + eps) and g = grad_y * weight: grad_z = (g - x mean(g x)) / r + grad_residual,
    grad_weight = the sum of grad_y x over rows, of which each program adds up `ROWS_OF_A_SUM`.
    Dtypes: all float32 but grad_y, an activation.
    """
    rows, width = z_TD.shape
    sums = z_TD.new_empty(divide_up(rows, ROWS_OF_A_SUM), width, dtype=torch.float32)
    if rows == 0:
        return sums.sum(dim=0)
    block = round_up_to_power(width)
    rms_norm_backward_kernel[(len(sums),)](
        z_TD,
        weight_D,
        grad_y_TD,
        grad_residual_TD,
        grad_z_TD,
        sums,
        z_TD.stride(0),
        grad_y_TD.stride(0),
        0 if grad_residual_TD is None else grad_residual_TD.stride(0),
        grad_z_TD.stride(0),
        rows,
        eps,
        WIDTH=width,
        BLOCK=block,
        ROWS=ROWS_OF_A_SUM,
        HAS_RESIDUAL=grad_residual_TD is not None,
        num_warps=choose_row_warps(block),
    )
    return sums.sum(dim=0)
