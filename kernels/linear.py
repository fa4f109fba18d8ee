"""Linear layers whose rows keep their bits in any batch: a persistent product, with SwiGLU in it if asked.

One program a multiprocessor walks tiles of the output, by groups of rows whose weights stay in the L2 cache. The bits
of an output depend on its row of x and its row of the weight alone, however many other rows there are:

- One accumulator takes an output's inputs from first to last, `step` at a time. The inputs are never split between
  programs. The tail of the last step is zeros, which add nothing.
- `step` and the tensor instruction are fixed for an architecture and a dtype. `wgmma` and `tcgen05` want 64 rows and 4
  warps at least. For less, Triton takes `mma.sync` on sm_90 too, which adds up its 16 products in another way.
- Rows and columns of a tile are free within that: one instruction of any width adds up an output alike. Stages, warps,
  and whether tensor descriptors (TMA) or pointers load a tile, only move the same numbers.

With SwiGLU one half of a tile's columns are of gate and the other half those of up, and both are one product. Two of
half the width read x from shared memory twice: they took 1.30 times the time of cuBLAS where other products took 1.03
(an H200, 8B shapes).
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # type: ignore[import-untyped,unused-ignore]

from . import count_processors, is_aligned
from .configurations import LinearConfiguration
from .glu import apply_glu
from .launch import Kernel, divide_up

ROWS_OF_TILES = 8  # that are walked together: their weights are read from the L2 cache, not from memory


@triton.jit
def place_tile(tile, row_tiles, column_tiles, GROUP: tl.constexpr):
    """Row and column of a tile: down the rows of a group, then one column on."""
    first = tile // (GROUP * column_tiles) * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    within = tile % (GROUP * column_tiles)
    return first + within % height, within // height


@triton.jit
def load_tile(source, first_row, first_column, num_rows, num_columns, stride, ROWS: tl.constexpr,
               COLUMNS: tl.constexpr, HAS_DESCRIPTORS: tl.constexpr, IS_EVEN: tl.constexpr,
               NUM_PARTS: tl.constexpr = 1):  # fmt: skip
    """Columns past the last are 0; rows past the last are anything, and only make outputs that are not stored.

    A source may have several parts of `num_rows` rows: the tile has as many rows of each, one part below the other.
    """
    if HAS_DESCRIPTORS and NUM_PARTS > 1:
        tile = tl.reshape(source.load([0, first_row, first_column]), [ROWS, COLUMNS])
    elif HAS_DESCRIPTORS:
        tile = source.load([first_row, first_column])
    else:
        place = tl.arange(0, ROWS)
        of_part: tl.constexpr = ROWS // NUM_PARTS
        row = place // of_part * num_rows + (first_row + place % of_part) % num_rows
        column = first_column + tl.arange(0, COLUMNS)
        place = source + row.to(tl.int64)[:, None] * stride + column[None, :]
        tile = tl.load(place) if IS_EVEN else tl.load(place, (column < num_columns)[None, :], 0.0)
    return tile


@Kernel
def linear_kernel(
    x,
    weight,
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
    HAS_BIAS: tl.constexpr,
    HAS_GLU: tl.constexpr,
    IS_GELU: tl.constexpr,
    HAS_DESCRIPTORS: tl.constexpr,
    IS_EVEN: tl.constexpr,
):
    NUM_PARTS: tl.constexpr = 2 if HAS_GLU else 1
    row_tiles, column_tiles = tl.cdiv(num_rows, ROWS), tl.cdiv(num_outputs, COLUMNS)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True):
        row_tile, column_tile = place_tile(tile, row_tiles, column_tiles, GROUP)
        row, column = row_tile * ROWS, column_tile * COLUMNS
        acc = tl.zeros([ROWS, NUM_PARTS * COLUMNS], tl.float32)
        for k in range(0, num_inputs, STEP):
            a = load_tile(x, row, k, num_rows, num_inputs, x_stride, ROWS, STEP, HAS_DESCRIPTORS, IS_EVEN)
            b = load_tile(weight, column, k, num_outputs, num_inputs, weight_stride, NUM_PARTS * COLUMNS, STEP,
                          HAS_DESCRIPTORS, IS_EVEN, NUM_PARTS)  # fmt: skip
            acc = tl.dot(a, tl.trans(b), acc, input_precision="ieee")
        columns = column + tl.arange(0, COLUMNS)
        if HAS_GLU:
            gate, up = tl.split(tl.permute(tl.reshape(acc, [ROWS, 2, COLUMNS]), [0, 2, 1]))
            if HAS_BIAS:
                gate += tl.load(bias + columns, columns < num_outputs, 0.0).to(tl.float32)[None, :]
                up += tl.load(bias + num_outputs + columns, columns < num_outputs, 0.0).to(tl.float32)[None, :]
            # Rounded as a product of its own would be, so that the bits are those of two steps.
            gate, up = gate.to(y.dtype.element_ty).to(tl.float32), up.to(y.dtype.element_ty).to(tl.float32)
            acc = apply_glu(gate, up, IS_GELU)
        elif HAS_BIAS:
            acc += tl.load(bias + columns, columns < num_outputs, 0.0).to(tl.float32)[None, :]
        rows = row + tl.arange(0, ROWS)
        place = y + rows.to(tl.int64)[:, None] * y_stride + columns[None, :]
        tl.store(place, acc.to(y.dtype.element_ty), (rows < num_rows)[:, None] & (columns < num_outputs)[None, :])


def linear(
    x_TI: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None,
    y_TO: Tensor,
    configuration: LinearConfiguration,
    activation: str | None = None,
) -> None:
    """Writes y = x W^T + b. With an activation, "silu" or "gelu_tanh", this is gate | up, y = activation(gate) * up.

    Shapes: with an activation the weight is [2 O, I], the bias [2 O], and half of a tile's columns are outputs. Dtypes:
    all the same, two bytes or float32.
    """
    (num_rows, num_inputs), num_outputs = x_TI.shape, y_TO.shape[1]
    if num_rows == 0:
        return
    has_descriptors = configuration.has_descriptors and all(map(is_aligned, (x_TI, weight_OI)))
    columns = configuration.columns if activation is None else configuration.columns // 2
    tiles = divide_up(num_rows, configuration.rows) * divide_up(num_outputs, columns)
    x: Any = x_TI
    weight: Any = weight_OI
    if has_descriptors:
        x = TensorDescriptor.from_tensor(x_TI, [configuration.rows, configuration.step])
        if activation is None:
            weight = TensorDescriptor.from_tensor(weight_OI, [columns, configuration.step])
        else:
            parts = weight_OI.view(2, num_outputs, num_inputs)
            weight = TensorDescriptor.from_tensor(parts, [2, columns, configuration.step])
    linear_kernel[(min(tiles, configuration.num_programs * count_processors()),)](
        x,
        weight,
        bias_O,
        y_TO,
        num_rows,
        num_outputs,
        num_inputs,
        x_TI.stride(0),
        weight_OI.stride(0),
        y_TO.stride(0),
        ROWS=configuration.rows,
        COLUMNS=columns,
        STEP=configuration.step,
        GROUP=ROWS_OF_TILES,
        HAS_BIAS=bias_O is not None,
        HAS_GLU=activation is not None,
        IS_GELU=activation == "gelu_tanh",
        HAS_DESCRIPTORS=has_descriptors,
        IS_EVEN=num_inputs % configuration.step == 0,
        num_warps=configuration.num_warps,
        num_stages=configuration.num_stages,
        enable_fp_fusion=False,  # so that SwiGLU rounds as in `glu`; dots are fused all the same
    )
