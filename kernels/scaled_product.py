"""The product of numbers of one byte with a scale for each row and each output: what int8 and fp8 linear layers share.

As `linear`: one program a multiprocessor walks tiles of the output. Sums of integers are exact, whatever the tile. Sums
of fp8 are in the order of `linear`, with a step of twice as many inputs.
"""

from dataclasses import replace
from typing import Any

import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-untyped,unused-ignore]

from . import count_processors, is_aligned
from .configurations import LinearConfiguration
from .launch import Kernel, divide_up
from .linear import ROWS_OF_TILES, load_tile, place_tile

# Inputs after which Hopper's fp8 sums, which keep 14 bits, are added to a float32 sum.
INPUTS_OF_A_SHORT_SUM = 128


@Kernel
def scaled_product_kernel(
    x,
    low,
    weight_sums,
    weight,
    x_scale,
    weight_scale,
    bias,
    y,
    num_rows,
    num_outputs,
    num_inputs,
    x_stride,
    weight_stride,
    y_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    GROUP: tl.constexpr,
    SHORT_SUM: tl.constexpr,
    IS_INTEGER: tl.constexpr,
    HAS_LOW: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_DESCRIPTORS: tl.constexpr,
    IS_EVEN: tl.constexpr,
):
    row_tiles, column_tiles = tl.cdiv(num_rows, ROWS), tl.cdiv(num_outputs, COLUMNS)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True):
        row_tile, column_tile = place_tile(tile, row_tiles, column_tiles, GROUP)
        row, column = row_tile * ROWS, column_tile * COLUMNS
        acc = tl.zeros([ROWS, COLUMNS], tl.int32 if IS_INTEGER else tl.float32)
        for k in range(0, num_inputs, STEP):
            a = load_tile(x, row, k, num_rows, num_inputs, x_stride, ROWS, STEP, HAS_DESCRIPTORS, IS_EVEN)
            b = load_tile(weight, column, k, num_outputs, num_inputs, weight_stride, COLUMNS, STEP, HAS_DESCRIPTORS,
                          IS_EVEN)  # fmt: skip
            if IS_INTEGER:
                acc = tl.dot(a, tl.trans(b), acc, out_dtype=tl.int32)
            else:
                acc = tl.dot(a, tl.trans(b), acc, max_num_imprecise_acc=SHORT_SUM)
        if HAS_LOW:  # of 16 bits: what overflows in between wraps back, since the sum of all fits into 32 bits
            acc *= 256
            for k in range(0, num_inputs, STEP):
                a = load_tile(low, row, k, num_rows, num_inputs, x_stride, ROWS, STEP, False, IS_EVEN)
                b = load_tile(weight, column, k, num_outputs, num_inputs, weight_stride, COLUMNS, STEP, HAS_DESCRIPTORS,
                              IS_EVEN)  # fmt: skip
                acc = tl.dot(a, tl.trans(b), acc, out_dtype=tl.int32)
        rows, columns = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
        if HAS_LOW:
            acc += 128 * tl.load(weight_sums + columns, columns < num_outputs, 0)[None, :]
        sums = acc.to(tl.float32) * tl.load(x_scale + rows, rows < num_rows, 0.0)[:, None]
        sums *= tl.load(weight_scale + columns, columns < num_outputs, 0.0)[None, :]
        if HAS_BIAS:
            sums += tl.load(bias + columns, columns < num_outputs, 0.0)[None, :]
        place = y + rows.to(tl.int64)[:, None] * y_stride + columns[None, :]
        tl.store(place, sums.to(y.dtype.element_ty), (rows < num_rows)[:, None] & (columns < num_outputs)[None, :])


def multiply_scaled(
    x_TI: Tensor,
    weight_OI: Tensor,
    x_scale_T: Tensor,
    weight_scale_O: Tensor,
    bias_O: Tensor | None,
    y_TO: Tensor,
    configuration: LinearConfiguration,
    *,
    low_TI: Tensor | None = None,
    weight_sums_O: Tensor | None = None,
) -> None:
    """Writes y = x_scale (x W^T) weight_scale + b, with 256 x + low + 128 in place of x where there is a low byte.

    Two bytes need the sums of the weight's rows, since a low byte counts from -128 on.
    Dtypes: x, low and weight int8, or x and weight float8_e4m3fn; scales and bias float32, sums int32.
    """
    (num_rows, num_inputs), num_outputs = x_TI.shape, y_TO.shape[1]
    if low_TI is not None or x_TI.is_floating_point() or y_TO.element_size() == 4:
        # A wider tile spills registers: two loops do on sm_100, the second accumulator of short sums does on sm_90. And
        # outputs of four bytes are stored through more shared memory than a wider tile leaves.
        configuration = replace(configuration, columns=min(configuration.columns, 128))
    has_descriptors = configuration.has_descriptors and low_TI is None and all(map(is_aligned, (x_TI, weight_OI)))
    tiles = divide_up(num_rows, configuration.rows) * divide_up(num_outputs, configuration.columns)
    x: Any = x_TI
    weight: Any = weight_OI
    if has_descriptors:
        x = TensorDescriptor.from_tensor(x_TI, [configuration.rows, configuration.step])
        weight = TensorDescriptor.from_tensor(weight_OI, [configuration.columns, configuration.step])
    scaled_product_kernel[(min(tiles, configuration.num_programs * count_processors()),)](
        x,
        low_TI,
        weight_sums_O,
        weight,
        x_scale_T,
        weight_scale_O,
        bias_O,
        y_TO,
        num_rows,
        num_outputs,
        num_inputs,
        x_TI.stride(0),
        weight_OI.stride(0),
        y_TO.stride(0),
        ROWS=configuration.rows,
        COLUMNS=configuration.columns,
        STEP=configuration.step,
        GROUP=ROWS_OF_TILES,
        SHORT_SUM=INPUTS_OF_A_SHORT_SUM,
        IS_INTEGER=not x_TI.is_floating_point(),
        HAS_LOW=low_TI is not None,
        HAS_BIAS=bias_O is not None,
        HAS_DESCRIPTORS=has_descriptors,
        IS_EVEN=num_inputs % configuration.step == 0,
        num_warps=configuration.num_warps,
        num_stages=configuration.num_stages,
        enable_fp_fusion=False,  # so that scales and bias round one after the other, as in the reference
    )
