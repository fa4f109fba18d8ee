"""SwiGLU and GeGLU: one program a row and some of its columns."""

import triton
import triton.language as tl
from torch import Tensor

from .launch import Kernel, divide_up

COLUMNS_AT_ONCE = 1024  # of a row, in one program: 8 a thread, which is 16 bytes of bfloat16
# gelu_tanh(x) = x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), since (1 + tanh(u)) / 2 = sigmoid(2u)
_GELU_LINEAR = tl.constexpr(1.5957691216057308)
_GELU_CUBIC = tl.constexpr(0.044715)


@triton.jit
def apply_glu(gate, up, IS_GELU: tl.constexpr):
    """Activation(gate) * up of float32 numbers."""
    z = _GELU_LINEAR * (gate + _GELU_CUBIC * gate * gate * gate) if IS_GELU else gate
    return gate / (1.0 + tl.exp(-z)) * up


@Kernel
def glu_kernel(gate_up, y, gate_up_stride, y_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr, IS_GELU: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < WIDTH
    source = gate_up + row * gate_up_stride + columns
    gate = tl.load(source, mask, 0.0).to(tl.float32)
    up = tl.load(source + WIDTH, mask, 0.0).to(tl.float32)
    tl.store(y + row * y_stride + columns, apply_glu(gate, up, IS_GELU), mask)


def glu(gate_up_TF2: Tensor, y_TF: Tensor, *, is_gelu: bool) -> None:
    """Writes y = activation(gate) * up, activation SiLU or GELU in its tanh form. Dtypes: y as gate_up."""
    rows, width = y_TF.shape
    if rows == 0:
        return
    glu_kernel[(rows, divide_up(width, COLUMNS_AT_ONCE))](
        gate_up_TF2,
        y_TF,
        gate_up_TF2.stride(0),
        y_TF.stride(0),
        WIDTH=width,
        BLOCK=COLUMNS_AT_ONCE,
        IS_GELU=is_gelu,
        num_warps=4,
        enable_fp_fusion=False,  # so that it rounds as the GLU in a product does (`linear`)
    )


@Kernel
def glu_backward_kernel(
    gate_up,
    grad_y,
    grad,
    gate_up_stride,
    grad_y_stride,
    grad_stride,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_GELU: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < WIDTH
    source = gate_up + row * gate_up_stride + columns
    gate = tl.load(source, mask, 0.0).to(tl.float32)
    up = tl.load(source + WIDTH, mask, 0.0).to(tl.float32)
    dy = tl.load(grad_y + row * grad_y_stride + columns, mask, 0.0).to(tl.float32)
    z = _GELU_LINEAR * (gate + _GELU_CUBIC * gate * gate * gate) if IS_GELU else gate
    z_slope = _GELU_LINEAR * (1.0 + 3.0 * _GELU_CUBIC * gate * gate) if IS_GELU else 1.0
    # Bounded, so that far out infinity times 0 is 0; e * sigmoid is 1 - sigmoid without its cancellation.
    e = tl.exp(tl.minimum(-z, 80.0))
    sigmoid = 1.0 / (1.0 + e)
    value = gate * sigmoid
    target = grad + row * grad_stride + columns
    tl.store(target, dy * up * (sigmoid + value * (e * sigmoid) * z_slope), mask)
    tl.store(target + WIDTH, dy * value, mask)


def glu_backward(gate_up_TF2: Tensor, grad_y_TF: Tensor, grad_TF2: Tensor, *, is_gelu: bool) -> None:
    """Writes the gradient by gate_up. With s = sigmoid(z): activation = gate s, its slope s + gate s (1 - s) z'.

    Dtypes: all the same.
    """
    rows, width = grad_y_TF.shape
    if rows == 0:
        return
    glu_backward_kernel[(rows, divide_up(width, COLUMNS_AT_ONCE))](
        gate_up_TF2,
        grad_y_TF,
        grad_TF2,
        gate_up_TF2.stride(0),
        grad_y_TF.stride(0),
        grad_TF2.stride(0),
        WIDTH=width,
        BLOCK=COLUMNS_AT_ONCE,
        IS_GELU=is_gelu,
        num_warps=4,
    )
